#include "og_stops.h"

void og_stops_init(og_stops *s) {
    for (int32_t i = 0; i < s->n_stops; i++) {
        const uint8_t *stop = s->bytes + s->offset[i];
        int32_t *failure = s->failure + s->offset[i];
        const int32_t length = s->offset[i + 1] - s->offset[i];
        /* failure[k]: length of the longest proper border of the first k + 1 bytes. */
        failure[0] = 0;
        for (int32_t k = 1, border = 0; k < length; k++) {
            while (border > 0 && stop[k] != stop[border]) border = failure[border - 1];
            if (stop[k] == stop[border]) border++;
            failure[k] = border;
        }
        s->state[i] = 0;
    }
}

static int32_t advance(const uint8_t *stop, const int32_t *failure, int32_t state, uint8_t byte) {
    while (state > 0 && stop[state] != byte) state = failure[state - 1];
    return stop[state] == byte ? state + 1 : 0;
}

size_t og_stops_feed(og_stops *s, const uint8_t *data, size_t n, int32_t *matched, int32_t *held) {
    *matched = -1;
    for (size_t at = 0; at < n; at++) {
        int32_t longest = 0;
        for (int32_t i = 0; i < s->n_stops; i++) {
            const int32_t offset = s->offset[i];
            const int32_t length = s->offset[i + 1] - offset;
            s->state[i] = advance(s->bytes + offset, s->failure + offset, s->state[i], data[at]);
            if (s->state[i] == length && length > longest) {
                longest = length;
                *matched = i;
            }
        }
        if (*matched >= 0) {
            *held = longest;
            return at + 1;
        }
    }
    *held = 0;
    for (int32_t i = 0; i < s->n_stops; i++) {
        if (s->state[i] > *held) *held = s->state[i];
    }
    return n;
}
