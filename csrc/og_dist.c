#include "og_dist.h"

#include "og_math.h"

double og_entropy_bits(const og_kernels *kernels, const float *logits, int32_t n, float max,
                       float scale) {
    double moment;
    const double total = kernels->exp_sum(logits, n, max, scale, &moment);
    const double bits = og_log2(total) - moment / total;
    return bits > 0.0 ? bits : 0.0;
}

double og_dist_add_blocks(const double *block_sum, int32_t n) {
    double total = 0.0;
    for (int32_t b = 0; b < og_blocks(n); b++) total += block_sum[b];
    return total;
}

og_dist og_dist_weigh(const og_kernels *kernels, const og_view *v, float max, float scale,
                      og_scratch *scratch) {
    og_history *h = v->touched;
    const int32_t blocks = og_blocks(v->n);
    double *unused = scratch->lists.sums;
    /* Equal logits have equal weights, so the bounds of the logits become bounds of the weights. */
    kernels->weigh(scratch->block_max, NULL, blocks, max, scale, NULL, scratch->block_top, unused);
    if (h == NULL) {
        kernels->weigh(v->row, v->mask, v->n, max, scale, NULL, scratch->weights,
                       scratch->block_sum);
    } else {
        const og_patch patch = {h->token, h->adjusted, h->in_block};
        kernels->weigh(v->row, v->mask, v->n, max, scale, &patch, scratch->weights,
                       scratch->block_sum);
    }
    /* The exponential may err by one in the last place, either way. */
    for (int32_t b = 0; b < blocks; b++) scratch->block_top[b] *= 1.000001f;
    og_dist d = {scratch->weights, NULL, NULL, scratch->block_top, v->n, 0.0f, 1.0f, 0.0, true};
    d.total = og_dist_add_blocks(scratch->block_sum, v->n);
    return d;
}

void og_dist_sum(const og_kernels *kernels, og_dist *d, og_scratch *scratch) {
    if (d->summed) return;
    d->total = kernels->sum(d->weights, d->n, d->low, d->block_top, scratch->block_sum);
    d->summed = true;
}

int32_t og_dist_draw(const og_dist *d, const double *block_sum, double u) {
    const int32_t n = d->n;
    const double target = u * d->total;
    double before = 0.0;
    int32_t last = 0; /* the last candidate, in case rounding finds none */
    for (int32_t start = 0; start < n; start += OG_BLOCK) {
        const double block = block_sum[start / OG_BLOCK];
        const bool inside = before + block > target;
        const int32_t end = n - start < OG_BLOCK ? n : start + OG_BLOCK;
        if (inside || end == n) {
            double running = before;
            for (int32_t i = start; i < end; i++) {
                if (!og_dist_keeps(d, i)) continue;
                last = i;
                running += (double)d->weights[i];
                if (running > target) return i;
            }
            /* Rounding inside the block may miss what its sum promised: take its last candidate. */
            if (inside) return last;
        }
        before += block;
    }
    return last;
}
