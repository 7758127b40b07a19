#include "og_config.h"

#include <string.h>

void og_config_init(og_config *config, int32_t n_vocab) {
    memset(config, 0, sizeof *config);
    config->n_vocab = n_vocab;
    config->room = OG_FIRST_ROOM;
    og_params *p = &config->params;
    p->temperature = 1.0f;
    p->dynatemp_exponent = 1.0f;
    p->typical_p = 1.0f;
    p->top_p = 1.0f;
    p->xtc_threshold = 0.1f;
    p->mirostat_tau = 5.0f;
    p->mirostat_eta = 0.1f;
    p->adaptive_target = -1.0f;
    p->adaptive_decay = 0.9f;
    p->repeat_last_n = 64;
    p->penalties.repetition = 1.0f;
    p->dry.base = 1.75f;
    p->dry.allowed_length = 2;
    p->dry.last_n = -1;
}

bool og_params_need_counts(const og_params *p) {
    return p->penalties.repetition != 1.0f || p->penalties.frequency != 0.0f ||
           p->penalties.presence != 0.0f || og_dry_is_on(&p->dry);
}

bool og_params_need_row(const og_params *p) {
    return p->top_k > 0 || p->top_n_sigma > 0.0f || p->typical_p < 1.0f ||
           p->dynatemp_range > 0.0f || p->mirostat != 0 || p->adaptive_target >= 0.0f;
}
