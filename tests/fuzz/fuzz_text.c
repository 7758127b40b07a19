/* Stop strings and UTF-8: bytes -> stops and a stream in pieces. The text that may be shown after
 * every piece is compared with a scan of the whole stream so far, which ignores pieces. */
#include <stdbool.h>

#include "fuzz.h"
#include "og_stops.h"
#include "og_utf8.h"

enum { MAX_STOPS = 8, MAX_STOP = 12, MAX_DATA = 400 };

typedef struct scene {
    int32_t n_stops;
    int32_t offset[MAX_STOPS + 1];
    uint8_t stops[MAX_STOPS * MAX_STOP];
    uint8_t data[MAX_DATA];
    int32_t n;
    uint8_t cuts[MAX_DATA]; /* lengths of pieces; 0 is a piece without bytes */
    int32_t n_cuts;
} scene;

/* --- the naive answer ------------------------------------------------------------------------- */

static bool ends_with(const uint8_t *data, int32_t n, const uint8_t *what, int32_t length) {
    return length <= n && memcmp(data + n - length, what, (size_t)length) == 0;
}

/* The stop that ends at data[n-1], the longest; -1 for none. */
static int32_t stop_at(const scene *s, int32_t n) {
    int32_t found = -1, longest = 0;
    for (int32_t i = 0; i < s->n_stops; i++) {
        const int32_t length = s->offset[i + 1] - s->offset[i];
        if (length <= longest || !ends_with(s->data, n, s->stops + s->offset[i], length)) continue;
        longest = length;
        found = i;
    }
    return found;
}

/* The number of bytes at the end of data[0..n-1] that may still become a stop. */
static int32_t naive_held(const scene *s, int32_t n) {
    int32_t held = 0;
    for (int32_t i = 0; i < s->n_stops; i++) {
        for (int32_t k = 1; k < s->offset[i + 1] - s->offset[i]; k++) {
            if (k > held && ends_with(s->data, n, s->stops + s->offset[i], k)) held = k;
        }
    }
    return held;
}

/* The code point of a character of n bytes, -1 if it is not one. */
static int32_t decode(const uint8_t *bytes, size_t n) {
    static const int32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    static const uint8_t bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    if ((bytes[0] & ~bits[n] & 0xFF) != lead[n]) return -1;
    int32_t code = bytes[0] & bits[n];
    for (size_t i = 1; i < n; i++) {
        if ((bytes[i] & 0xC0) != 0x80) return -1;
        code = code << 6 | (bytes[i] & 0x3F);
    }
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    return code < least[n] || code > 0x10FFFF || surrogate ? -1 : code;
}

/* Whether one or more further bytes make these a character; tries every end. For the places after
 * the next one, the lowest and the highest continuation byte are enough. */
static bool can_finish(const uint8_t *bytes, size_t n) {
    uint8_t whole[4];
    memcpy(whole, bytes, n);
    for (size_t length = n + 1; length <= 4; length++) {
        for (int next = 0x80; next <= 0xBF; next++) {
            for (int rest = 0x80; rest <= 0xBF; rest += 0x3F) {
                whole[n] = (uint8_t)next;
                for (size_t i = n + 1; i < length; i++) whole[i] = (uint8_t)rest;
                if (decode(whole, length) >= 0) return true;
            }
        }
    }
    return false;
}

static int32_t naive_unfinished(const uint8_t *data, int32_t n) {
    for (int32_t back = n < 3 ? n : 3; back > 0; back--) {
        if (can_finish(data + n - back, (size_t)back)) return back;
    }
    return 0;
}

/* --- the stream, as the Python layer makes it ------------------------------------------------- */

typedef struct stream {
    og_stops stops;
    uint8_t *held; /* all bytes received and not shown, in memory of exactly that size */
    int32_t n_held;
    int32_t shown; /* bytes shown so far */
    int32_t taken;
    int32_t matched;
} stream;

static void *copy_of(const void *data, size_t bytes) {
    void *copy = malloc(bytes);
    PROMISE(copy != NULL || bytes == 0, "memory");
    if (bytes > 0) memcpy(copy, data, bytes);
    return copy;
}

static stream open_stream(const scene *s) {
    const size_t total = (size_t)s->offset[s->n_stops];
    stream t = {0};
    t.stops.n_stops = s->n_stops;
    t.stops.bytes = copy_of(s->stops, total);
    t.stops.offset = copy_of(s->offset, (size_t)(s->n_stops + 1) * sizeof *s->offset);
    t.stops.failure = malloc(total * sizeof(int32_t));
    t.stops.state = malloc((size_t)s->n_stops * sizeof(int32_t));
    t.matched = -1;
    og_stops_init(&t.stops);
    return t;
}

static void close_stream(stream *t) {
    free((void *)(uintptr_t)t->stops.bytes);
    free((void *)(uintptr_t)t->stops.offset);
    free(t->stops.failure);
    free(t->stops.state);
    free(t->held);
}

/* Feed a piece, and compare the bytes that may be shown with the received ones. */
static void feed(stream *t, const uint8_t *data, int32_t n) {
    uint8_t *piece = copy_of(data, (size_t)n); /* AddressSanitizer knows its end */
    int32_t held = -1;
    const int32_t taken = (int32_t)og_stops_feed(&t->stops, piece, (size_t)n, &t->matched, &held);
    PROMISE(taken >= 0 && taken <= n && (taken == n || t->matched >= 0), "%d of %d", taken, n);
    uint8_t *all = malloc((size_t)(t->n_held + taken));
    if (t->n_held > 0) memcpy(all, t->held, (size_t)t->n_held);
    if (taken > 0) memcpy(all + t->n_held, piece, (size_t)taken);
    free(piece);
    free(t->held);
    t->taken += taken;
    t->n_held += taken;
    PROMISE(held >= 0 && held <= t->n_held, "%d of %d held", held, t->n_held);
    int32_t ready = t->n_held - held;
    if (t->matched < 0) ready -= (int32_t)og_utf8_unfinished(all, (size_t)ready);
    t->shown += ready;
    t->n_held -= ready;
    t->held = copy_of(all + ready, (size_t)t->n_held);
    free(all);
}

/* The bytes that may be shown are exactly those of the naive scan. before: the bytes taken at the
 * previous call. */
static void compare(const stream *t, const scene *s, int32_t before) {
    for (int32_t end = before + 1; end < t->taken; end++) {
        PROMISE(stop_at(s, end) < 0, "a stop ends at %d, taken are %d", end, t->taken);
    }
    const int32_t stop = stop_at(s, t->taken);
    PROMISE(stop == t->matched, "stop %d, not %d", t->matched, stop);
    int32_t shown = t->taken - naive_held(s, t->taken);
    if (stop >= 0) {
        shown = t->taken - (s->offset[stop + 1] - s->offset[stop]);
    } else {
        shown -= naive_unfinished(s->data, shown);
    }
    PROMISE(t->shown == shown, "%d bytes shown of %d, not %d", t->shown, t->taken, shown);
    PROMISE(t->shown + t->n_held == t->taken, "%d + %d of %d", t->shown, t->n_held, t->taken);
    if (t->n_held > 0) {
        PROMISE(memcmp(t->held, s->data + t->shown, (size_t)t->n_held) == 0, "other bytes");
    }
}

/* --- scenes ----------------------------------------------------------------------------------- */

/* Text of few letters, of the bytes with rules in UTF-8, or of any bytes. */
static uint8_t letter(input *in, int alphabet) {
    static const uint8_t special[16] = {'a',  0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1,
                                        0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xE2};
    const uint32_t byte = read_byte(in);
    if (alphabet == 0) return (uint8_t)('a' + byte % 2);
    if (alphabet == 1) return special[byte % 16];
    return (uint8_t)byte;
}

static void read_scene(input *in, scene *s) {
    const int alphabet = read_below(in, 3);
    s->n_stops = read_below(in, MAX_STOPS + 1);
    s->offset[0] = 0;
    for (int32_t i = 0; i < s->n_stops; i++) {
        s->offset[i + 1] = s->offset[i] + 1 + read_below(in, MAX_STOP);
        for (int32_t k = s->offset[i]; k < s->offset[i + 1]; k++)
            s->stops[k] = letter(in, alphabet);
    }
    s->n_cuts = read_below(in, 64);
    for (int32_t i = 0; i < s->n_cuts; i++) s->cuts[i] = (uint8_t)read_below(in, 24);
    for (s->n = 0; s->n < MAX_DATA && in->left > 0; s->n++) s->data[s->n] = letter(in, alphabet);
}

/* Feed everything in pieces of length `step`, 0 for the scene's own. Returns the bytes shown. */
static int32_t run(const scene *s, int32_t step, int32_t *matched) {
    stream t = open_stream(s);
    int32_t cut = 0;
    while (t.taken < s->n && t.matched < 0) {
        int32_t length = s->n - t.taken;
        if (step > 0 && step < length) length = step;
        if (step == 0 && cut < s->n_cuts) {
            length = s->cuts[cut] < length ? s->cuts[cut] : length;
            cut++;
        }
        const int32_t before = t.taken;
        feed(&t, s->data + before, length);
        compare(&t, s, before);
    }
    *matched = t.matched;
    close_stream(&t);
    return t.shown;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static scene s;
    input in = {data, size};
    int32_t whole_match, match;
    read_scene(&in, &s);
    const int32_t whole = run(&s, MAX_DATA, &whole_match);
    PROMISE(run(&s, 1, &match) == whole && match == whole_match, "byte by byte");
    PROMISE(run(&s, 0, &match) == whole && match == whole_match, "in pieces");
    return 0;
}
