{% set NAME = name|upper %}
/* What the header's functions are tested with. */
#define {{ NAME }}_IMPLEMENTATION
#include "network.h"
int many(const uint8_t *pixels, int count, int pixels_each, {{ sum_t }} *logits, int classes) {
    static struct {{ name }}_state state;
    for (int i = 0; i < count; i++)
        {{ name }}_predict(&state, pixels + i * pixels_each, logits + i * classes);
    return 0;
}
int memory(void) { return (int)sizeof(struct {{ name }}_state); }
int constants(void) { return (int)({% for array in arrays %}{{ " + " if not loop.first }}sizeof {{ array }}{% endfor %}); }
