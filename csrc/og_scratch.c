#include "og_scratch.h"

#include <string.h>

#include "og_memory.h"

static int32_t list_capacity(int32_t n_vocab) {
    const int32_t wanted = n_vocab / 8 > 4096 ? n_vocab / 8 : 4096;
    return og_padded(n_vocab < wanted ? n_vocab : wanted);
}

static size_t lay_out(og_scratch *s, void *memory, int32_t n_vocab, bool with_row) {
    og_memory m = {memory, 0};
    const size_t row = (size_t)og_padded(n_vocab) * sizeof(float);
    const size_t blocks = (size_t)og_blocks(n_vocab);
    const int32_t capacity = list_capacity(n_vocab);
    const size_t list = ((size_t)capacity + OG_SPARE) * sizeof(float);
    s->weights = og_memory_take(&m, row);
    s->row = with_row ? og_memory_take(&m, row) : NULL;
    s->ids = og_memory_take(&m, list);
    s->raw_max = og_memory_take(&m, blocks * sizeof(float));
    s->block_max = og_memory_take(&m, blocks * sizeof(float));
    s->block_sum = og_memory_take(&m, blocks * sizeof(double));
    s->block_top = og_memory_take(&m, (blocks + OG_LANES) * sizeof(float));
    s->lists.sums = og_memory_take(&m, blocks * sizeof(double));
    for (int i = 0; i < 3; i++) s->lists.values[i] = og_memory_take(&m, list);
    for (int i = 0; i < 2; i++) s->lists.places[i] = og_memory_take(&m, list);
    s->lists.capacity = capacity;
    s->lists.sample = og_memory_take(&m, OG_SAMPLE * sizeof(float));
    return m.used;
}

size_t og_scratch_bytes(int32_t n_vocab, bool with_row) {
    og_scratch unused;
    return lay_out(&unused, NULL, n_vocab, with_row);
}

void og_scratch_init(og_scratch *scratch, void *memory, int32_t n_vocab, bool with_row) {
    memset(scratch, 0, sizeof *scratch);
    lay_out(scratch, memory, n_vocab, with_row);
}
