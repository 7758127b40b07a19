#include "og_json.h"

#include <stdbool.h>
#include <string.h>

/* Return the end of the string whose opening quote is data[at]: after its closing quote, or n. */
static size_t after_string(const uint8_t *data, size_t n, size_t at) {
    for (at++; at < n; at++) {
        if (data[at] == '"') return at + 1;
        if (data[at] == '\\') at++;
    }
    return n;
}

/* Whether a byte can be part of a number, a word of JSON, or a constant such as NaN. */
static bool is_scalar(uint8_t byte) {
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || byte == '-' || byte == '+' || byte == '.';
}

static bool is_long_integer(const uint8_t *data, size_t n) {
    if (n <= OG_JSON_DIGITS) return false;
    const size_t sign = data[0] == '-';
    for (size_t i = sign; i < n; i++) {
        if (data[i] < '0' || data[i] > '9') return false;
    }
    return n - sign > OG_JSON_DIGITS;
}

static bool is_constant(const uint8_t *data, size_t n) {
    static const char *const names[] = {"NaN", "Infinity", "-Infinity"};
    for (int i = 0; i < 3; i++) {
        if (strlen(names[i]) == n && memcmp(data, names[i], n) == 0) return true;
    }
    return false;
}

void og_json_count(const uint8_t *data, size_t n, og_json *counts) {
    og_json c = {0};
    size_t depth = 0, at = 0;
    c.constant = n;
    while (at < n) {
        const uint8_t byte = data[at];
        if (byte == '"') {
            c.strings++;
            at = after_string(data, n, at);
            continue;
        }
        if (is_scalar(byte)) {
            const size_t begin = at;
            while (at < n && is_scalar(data[at])) at++;
            const size_t length = at - begin;
            c.scalars++;
            c.long_integers += (size_t)is_long_integer(data + begin, length);
            if (length > c.longest_number) c.longest_number = length;
            if (c.constant == n && is_constant(data + begin, length)) c.constant = begin;
            continue;
        }
        if (byte == ':') {
            c.keys++;
            c.fields += depth == 1;
        }
        if (byte == '[' || byte == '{') {
            c.lists += byte == '[';
            c.objects += byte == '{';
            if (++depth > c.depth) c.depth = depth;
        } else if ((byte == ']' || byte == '}') && depth > 0) {
            depth--;
        }
        at++;
    }
    *counts = c;
}

typedef struct cutter {
    size_t least, capacity, count;
    size_t *cuts;
    size_t begin; /* of the piece */
    size_t item;  /* where the last item of the piece begins */
} cutter;

static void cut(cutter *c, size_t at) {
    if (c->count < c->capacity) c->cuts[c->count++] = at;
    c->begin = at + 1;
}

/* Record that an item ends at data[at]. */
static void end_item(cutter *c, size_t at) {
    if (at - c->item >= c->least && c->item > c->begin) cut(c, c->item - 1);
    c->item = at + 1;
}

size_t og_json_cut(const uint8_t *data, size_t n, size_t least, size_t *cuts, size_t capacity) {
    cutter c = {least, capacity, 0, cuts, 1, 1};
    size_t depth = 0, at = 0;
    while (at < n) {
        const uint8_t byte = data[at];
        if (byte == '"') {
            at = after_string(data, n, at);
            continue;
        }
        if (byte == '[' || byte == '{') depth++;
        if ((byte == ']' || byte == '}') && depth > 0) depth--;
        if (depth == 1 && byte == ',') {
            end_item(&c, at);
            if (at - c.begin >= least) cut(&c, at);
        }
        if (depth == 0) {
            end_item(&c, at);
            break;
        }
        at++;
    }
    return c.count;
}
