{% set name, facts, align = source.name, source.facts, source.compact.description.align %}
{% set NAME, side, classes = name|upper, facts.side, facts.classes|length %}
{% set seen, shrink = source.compact.seen, source.compact.description.shrink %}
{% set resize = source.compact.description.resize %}
{% set zoomed, unmixed = resize or shrink != 1, layers|rejectattr("mixed")|list|length > 0 %}
{# How far the pixels of the straightened picture lie apart, and where the first lies, in pixels. #}
{% set step, start = shrink, (side - 1 - shrink * (seen - 1)) / 2 %}
{% set step, start = ((step * 65536)|round|int, (start * 65536)|round|int) if int8 else (step ~ "f", start ~ "f") %}
{% set further = " + " ~ start if not resize and (zoomed or seen != side) else "" %}
{# Each picture has its own steps if it is resized. #}
{% set step_right, step_down = ("s->wide", "s->high") if resize else (step, step) %}
{% set what = "digit" if facts.noun == "digits" else "class" %}
{% set moment_t = "int32_t" if side <= 48 else "int64_t" %}
{% set widest = table|map(attribute="padded")|max %}
{% set pairs = int8 and half > 0 %}{# Separable layers make two places at once. #}
{% set places = 1 + pairs %}
{% set steep = (steepest * 65536)|int %}
{# What each number is held in, and what no layer needs. #}
{% set map_t, sum_t, weight_t, entry_t = ("uint8_t", "int32_t", "int8_t", "int16_t") if int8 else 4 * ("float",) %}
{% set separable, norm_before_pool, residual = "wide" in fields, "norm_before_pool" in fields, "residual" in fields %}
/* SPDX-License-Identifier: MIT
 * {{ source.file|for_c }}: made by mnist-lit {{ version }}, C99 or C++11; needs no library
{%- if int8 %} and computes in whole numbers alone{% endif %}.
{% for key, value in source.about.items() %}
 * {{ key }}: {{ value|for_c }}
{% endfor %}
 * weights_sha256: {{ digest }}
 *
 * One file of a program defines {{ NAME }}_IMPLEMENTATION before it includes this; others include it
 * as it is. Several networks go into one program.
 *
 *     struct {{ name }}_state state;  // all of its memory; a thread needs one of its own
 *     int {{ what }} = {{ name }}_predict(&state, pixels, logits);
 *
 * pixels are {{ side }}x{{ side }} bytes, rows from the top, 0 for the background and 255 for ink.
 * logits, {{ classes }} of them, may be a null pointer{% if int8 %}; times {{ NAME }}_LOGIT they are the network's{% endif %}.
 *
 * Without ever holding the picture, row by row:
 *
 *     {{ name }}_start(&state);
{% if align %}
 *     for (y = 0; y < {{ side }}; y++) {{ name }}_look(&state, row);  // how the picture leans
{% endif %}
 *     for (y = 0; y < {{ side }}; y++) {{ name }}_row(&state, row);{% if align %}   // the same rows again{% endif %}

 *     int {{ what }} = {{ name }}_finish(&state, logits);
 *
 * These functions return -1 for a row too many or too few. {{ name }}_selftest(&state) is there if
 * {{ NAME }}_SELFTEST is defined before this is included, and is 0 if the processor computes right.
 */
#ifndef {{ NAME }}_H
#define {{ NAME }}_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define {{ NAME }}_VERSION "{{ version }}"
#define {{ NAME }}_SIDE {{ side }} /* pixels */
#define {{ NAME }}_CLASSES {{ classes }}
#define {{ NAME }}_INPUT {{ side * side }} /* bytes of a picture */
#define {{ NAME }}_RAM sizeof(struct {{ name }}_state) /* bytes, without a stack */
{% if int8 %}
#define {{ NAME }}_LOGIT {{ unit }}f
{% endif %}

struct {{ name }}_state {
    {{ sum_t }} sums[{{ table[-1].filters }}]; /* of the last layer's maps */
    {{ sum_t }} best[{{ places * widest }}]; /* of the places that a pooling looks at */
{% if norm_before_pool %}
    {{ sum_t }} one[{{ places * widest }}]; /* of one of them */
{% endif %}
{% if not int8 %}
    float row[{{ table[-1].filters }}]; /* of the last layer, at one place */
{% endif %}
{% if align %}
    {{ moment_t }} mass, x, y, xy, yy{{ ", xx" if resize }}; /* moments of the ink, from the middle, in halves of a pixel */
    {{ sum_t }} right, down, slant; /* where the middle comes from, and by how much a row is moved */
{% if resize %}
    {{ sum_t }} wide, high; /* a pixel of the straightened picture, in pixels */
{% endif %}
    int16_t looked, seen, made; /* rows */
    uint8_t above[{{ side }}]; /* the row before */
{% else %}
    int16_t seen; /* rows */
{% endif %}
    {{ entry_t }} values[{{ entries }}]; /* what is not 0 under a filter, */
    {{ at_t }} at[{{ listed }}]; /* and where its weights are */
    {{ row_t }} rows[{{ layers|length + 1 }}]; /* how many there are: of pixels, then of each layer */
    {{ row_t }} from[{{ table[0].slots }}], to[{{ table[0].slots }}]; /* where there is ink in a row of pixels */
    {{ map_t }} maps[{{ maps }}]; /* the rows that are still needed, in rings */
};

/* Return the most probable {{ what }}, of a whole picture or of the rows since the start. */
int {{ name }}_predict(struct {{ name }}_state *state, const uint8_t *pixels, {{ sum_t }} *logits);
void {{ name }}_start(struct {{ name }}_state *state);
{% if align %}
int {{ name }}_look(struct {{ name }}_state *state, const uint8_t *row);
{% endif %}
int {{ name }}_row(struct {{ name }}_state *state, const uint8_t *row);
int {{ name }}_finish(struct {{ name }}_state *state, {{ sum_t }} *logits);

#ifdef __cplusplus
}
#endif
{% if int8 %}
#ifdef __AVR__
#include <avr/pgmspace.h>
#define {{ NAME }}_FLASH PROGMEM
#define {{ NAME }}_I8(p) ((int8_t)pgm_read_byte(p))
#define {{ NAME }}_I16(p) ((int16_t)pgm_read_word(p))
#define {{ NAME }}_I32(p) ((int32_t)pgm_read_dword(p))
#else
#define {{ NAME }}_FLASH
#define {{ NAME }}_I8(p) (*(p))
#define {{ NAME }}_I16(p) (*(p))
#define {{ NAME }}_I32(p) (*(p))
#endif
{% set flash, at8, at16, at32 = NAME ~ "_FLASH ", NAME ~ "_I8", NAME ~ "_I16", NAME ~ "_I32" %}
{% else %}
#define {{ NAME }}_AT(p) (*(p))
{% set flash, at8, at16, at32 = "", NAME ~ "_AT", NAME ~ "_AT", NAME ~ "_AT" %}
{% endif %}
#endif

#if defined({{ NAME }}_IMPLEMENTATION) && !defined({{ NAME }}_IMPLEMENTED)
#define {{ NAME }}_IMPLEMENTED
#ifdef __GNUC__
#define {{ NAME }}_ALONE __attribute__((noinline)) static /* keeps numbers in registers, and gives its stack back */
#else
#define {{ NAME }}_ALONE static
#endif
#ifdef __AVR__ /* where a call needs stack */
#define {{ NAME }}_APART static
#else
#define {{ NAME }}_APART {{ NAME }}_ALONE
#endif

/* A convolution, and what follows it up to the next; the name of an array says of which block. */
struct {{ name }}_layer {
    const {{ weight_t }} *weights; /* [row][column][channel][filter]{% if pairs %}; of a separable layer [filter / 4][channel / 2][filter % 4 / 2][channel % 2][filter % 2]{% endif %}{% if unmixed %}, or 0: each filter is a channel{% endif %} */
    const {{ sum_t }} *norm; /* of each filter: {{ "shift, scale, largest" if int8 else "scale, shift" }} */
{% if separable %}
    const {{ weight_t }} *depthwise; /* depthwise filters before it: {{ "[channel][row][column]" if int8 else "[row][column][channel]" }} */
{% if int8 %}
    const int16_t *depthwise_scale;
{% endif %}
{% endif %}
{% for field, kind in fields.items() %}
    {{ kind }} {{ field }};
{% endfor %}
};

{% for key, values in arrays.items() %}
static const {{ values.dtype ~ "_t" if int8 else "float" }} {{ name }}_{{ key }}[{{ values.size }}] {{ flash }}= {
    {{ text(values) }}};
{% endfor %}

/* {{ (["weights", "norm"] + (["depthwise"] if separable else []) + (["depthwise_scale"] if separable and int8 else []) + fields|list)|join(", ") }} */
static const struct {{ name }}_layer {{ name }}_layers[{{ layers|length }}] = {
{% for layer in layers %}
{% set row = table[loop.index0] %}
{% set depthwise = name ~ "_depthwise" ~ layer.block if layer.depthwise is not none else "" %}
    { {{- name ~ "_conv" ~ layer.block if layer.mixed else 0 }}, {{ name }}_norm{{ loop.index }}
{%- if separable %}, {{ depthwise or 0 }}
{%- if int8 %}, {{ depthwise ~ "_scale" if depthwise else 0 }}{% endif %}{% endif %}
{%- for value in row.values() %}, {{ value }}{% endfor %} },
{% endfor %}
};

/* Add {{ 4 }}, 8{% if widest >= 16 %} or 16{% endif %} filters at one place, and keep the largest of all places. */
{% if int8 %}
/* Some processors add two products of 16 bits in one step, which no compiler finds in C: two entries at once. */
#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) && !defined(__ARM_BIG_ENDIAN)
#define {{ NAME }}_SMLAD
static inline uint32_t {{ name }}_word(const void *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}
#define {{ NAME }}_EACH(DO) \
    const {{ at_t }} *at = s->at; \
    for (const int16_t *from = s->values, *end = from + count; from < end;) { \
        const int8_t *one = w + at[0], *two = w + at[1]; \
        uint32_t values = {{ name }}_word(from); \
        from += 2, at += 2; /* here, so that the loads do it */ \
        DO \
    }
#define {{ NAME }}_ADD(n) { \
    uint32_t x = {{ name }}_word(one + 4 * n), y = {{ name }}_word(two + 4 * n), z; \
    __asm__("pkhbt %4, %5, %6, lsl #16\n\tpkhtb %5, %6, %5, asr #16\n\t" \
            "sxtb16 %6, %4\n\tsmlad %0, %7, %6, %0\n\tsxtb16 %4, %4, ror #8\n\tsmlad %1, %7, %4, %1\n\t" \
            "sxtb16 %6, %5\n\tsmlad %2, %7, %6, %2\n\tsxtb16 %5, %5, ror #8\n\tsmlad %3, %7, %5, %3" \
            : "+r"(a##n), "+r"(b##n), "+r"(c##n), "+r"(d##n), "=&r"(z), "+r"(x), "+r"(y) : "r"(values)); }
#else
{% endif %}
#define {{ NAME }}_EACH(DO) \
    const {{ at_t }} *at = s->at; \
    for (const {{ entry_t }} *one = s->values, *end = one + count; one < end;) { \
        {{ entry_t }} value = *one++; \
        const {{ weight_t }} *from = w + *at++; \
        DO \
    }
#define {{ NAME }}_ADD(n) \
    a##n += ({{ sum_t }})value * {{ at8 }}(from + 4 * n); \
    b##n += ({{ sum_t }})value * {{ at8 }}(from + 4 * n + 1); \
    c##n += ({{ sum_t }})value * {{ at8 }}(from + 4 * n + 2); \
    d##n += ({{ sum_t }})value * {{ at8 }}(from + 4 * n + 3);
{% if int8 %}
#endif
{% endif %}
#define {{ NAME }}_ZERO(n) {{ sum_t }} a##n = 0, b##n = 0, c##n = 0, d##n = 0;
#define {{ NAME }}_FIRST(n) \
    best[4 * n] = a##n; \
    best[4 * n + 1] = b##n; \
    best[4 * n + 2] = c##n; \
    best[4 * n + 3] = d##n;
#define {{ NAME }}_KEEP(n) \
    best[4 * n] = a##n > best[4 * n] ? a##n : best[4 * n]; \
    best[4 * n + 1] = b##n > best[4 * n + 1] ? b##n : best[4 * n + 1]; \
    best[4 * n + 2] = c##n > best[4 * n + 2] ? c##n : best[4 * n + 2]; \
    best[4 * n + 3] = d##n > best[4 * n + 3] ? d##n : best[4 * n + 3];
#define {{ NAME }}_X1(DO) DO(0)
#define {{ NAME }}_X2(DO) DO(0) DO(1)
#define {{ NAME }}_X4(DO) DO(0) DO(1) DO(2) DO(3)
#define {{ NAME }}_DOT(N) \
    {{ NAME }}_APART void {{ name }}_dot##N(const struct {{ name }}_state *s, int count, const {{ weight_t }} *w, \
                           {{ sum_t }} *best, int first) { \
        {{ NAME }}_X##N({{ NAME }}_ZERO) \
        {{ NAME }}_EACH({{ NAME }}_X##N({{ NAME }}_ADD)) \
        if (first) { {{ NAME }}_X##N({{ NAME }}_FIRST) } \
        else { {{ NAME }}_X##N({{ NAME }}_KEEP) } \
    }
{{ NAME }}_DOT(1)
{% if widest >= 8 %}
#if !defined(__AVR__) && !defined(__ARM_ARCH_6M__) && !defined({{ NAME }}_SMLAD) /* which lack registers */
#define {{ NAME }}_WIDE
{{ NAME }}_DOT(2)
#endif
{% endif %}
{% if widest >= 16 %}
#if UINTPTR_MAX > 0xffffffffu /* processors with many */
#define {{ NAME }}_WIDER
{{ NAME }}_DOT(4)
#endif
{% endif %}

{% if int8 %}
/* Shift, scale to 0 to 255, and cut off below 0 and above. */
static int32_t {{ name }}_norm(int32_t sum, const int32_t *norm, int before, int after) {
    int32_t scale = {{ at32 }}(norm + 1);
{% if negative %}
    if (scale < 0) {
        scale = -scale;
        sum = -sum;
    }
{% endif %}
    sum += {{ at32 }}(norm);
    if (sum <= 0) return 0;
    sum >>= before;
    if (sum > {{ at32 }}(norm + 2)) return 255;
    return (int32_t)(((uint32_t)sum * (uint32_t)scale + ((uint32_t)1 << (after - 1))) >> after);
}
{% else %}
static float {{ name }}_norm(float sum, const float *norm, int filters) {
    float value = sum * norm[0] + norm[filters];
    return value > 0.0f ? value : 0.0f;
}
{% endif %}

{% if pairs %}
{% if slow %}
/* Return the depthwise sum of a channel at one place; y and x are of its upper left corner. */
{{ NAME }}_APART int32_t {{ name }}_tap(const struct {{ name }}_layer *l, const uint8_t *const *rows, int y, int x, int c) {
    int k = l->kernel, size = l->size;
    int32_t sum = 0;
    for (int i = y < 0 ? -y : 0; i < k && y + i < size; i++)
        for (int j = x < 0 ? -x : 0; j < k && x + j < size; j++)
            sum += rows[i][(x + j) * l->channels + c] * {{ at8 }}(l->depthwise + (c * k + i) * k + j); /* 16 bits */
    return sum;
}

{% endif %}
/* Make the depthwise sums of all channels at a place and at the next in its row. */
{{ NAME }}_APART void {{ name }}_depthwise(struct {{ name }}_state *s, const struct {{ name }}_layer *l,
                          const uint8_t *const *rows, {{ "int y, " if slow }}int x) {
    int channels = l->channels, first = x < 0 ? 0 : 255, last = x + {{ usual }} < l->size ? 255 : 0;
{% if slow %}
    int fast = l->kernel == {{ usual }} && x >= -1 && x + {{ usual }} <= l->size; /* at most one column is outside */
{% endif %}
    int shift = l->depthwise_shift, base = x * channels;
    const int8_t *w = l->depthwise;
    for (int c = 0; c < channels; c++) {
        int32_t one = 0, two = 0;
{% if slow %}
        if (!fast) {
            one = {{ name }}_tap(l, rows, y, x, c);
            if (x + 1 < l->size) two = {{ name }}_tap(l, rows, y, x + 1, c);
        } else
{% endif %}
        {
{% for i in range(usual) %}
            if (rows[{{ i }}]) {
                const uint8_t *from = rows[{{ i }}] + base + c;
{% for j in range(usual + 1) %}
                int in{{ j }} = from[{{ j }} * channels]{{ " & first" if j == 0 }}{{ " & last" if j == usual }};
                {{ ("one += in%d * %s(w + %d); "|format(j, at8, i * usual + j) if j < usual) ~ ("two += in%d * %s(w + %d);"|format(j, at8, i * usual + j - 1) if j) }}
{% endfor %}
            }
{% endfor %}
            w += {{ usual * usual }};
        }
        int32_t scale = {{ at16 }}(l->depthwise_scale + c), half = (int32_t)1 << (shift - 1);
        s->values[c] = (int16_t)((uint32_t)(one * scale + half) >> shift); /* of which 16 bits are the same with a sign */
        s->values[{{ half }} + c] = (int16_t)((uint32_t)(two * scale + half) >> shift);
    }
    if (channels % 2) s->values[channels] = s->values[{{ half }} + channels] = 0;
}

/* Mix the channels of these two places to filters; a pooling keeps the larger. */
#if defined(__AVR__) || defined(__ARM_ARCH_6M__)
#define {{ NAME }}_FILTERS 2
#define {{ NAME }}_FEW(DO) DO(a, 0) DO(b, 1)
#define {{ NAME }}_MIX {{ NAME }}_MIX2(0, a, b)
#else
#define {{ NAME }}_FILTERS 4
#define {{ NAME }}_FEW(DO) DO(a, 0) DO(b, 1) DO(c, 2) DO(d, 3)
#define {{ NAME }}_MIX {{ NAME }}_MIX2(0, a, b) {{ NAME }}_MIX2(4, c, d)
#endif
#ifdef {{ NAME }}_SMLAD
#define {{ NAME }}_MIX2(n, a, b) { \
    uint32_t x = {{ name }}_word(v), y = {{ name }}_word(v + {{ half }}), z, t; \
    __asm__("ldr %5, %8\n\tsxtb16 %4, %5\n\tsmlad %0, %6, %4, %0\n\tsmlad %1, %7, %4, %1\n\t" \
            "sxtb16 %5, %5, ror #8\n\tsmlad %2, %6, %5, %2\n\tsmlad %3, %7, %5, %3" \
            : "+r"(a##0), "+r"(a##1), "+r"(b##0), "+r"(b##1), "=&r"(t), "=&r"(z) \
            : "r"(x), "r"(y), "m"(*(const int8_t (*)[4])(w + n))); }
#else
#define {{ NAME }}_MIX2(n, a, b) \
    for (int i = 0; i < 2; i++) { \
        int16_t one = {{ at8 }}(w + n + 2 * i), two = {{ at8 }}(w + n + 2 * i + 1); \
        int32_t x = v[i], y = v[{{ half }} + i]; \
        a##0 += x * one, a##1 += y * one, b##0 += x * two, b##1 += y * two; \
    }
#endif
#define {{ NAME }}_NONE(a, i) int32_t a##0 = 0, a##1 = 0;
#define {{ NAME }}_KEPT(a, i) \
    if (!pool) best[{{ widest }} + i] = a##1; \
    else if (a##1 > a##0) a##0 = a##1; \
    if (!pool || place == 0 || a##0 > best[i]) best[i] = a##0;
static void {{ name }}_mix(const int16_t *values, const struct {{ name }}_layer *l, int32_t *best, int pool, int place) {
    for (int f = 0, wide = l->wide; f < l->padded; f += {{ NAME }}_FILTERS, best += {{ NAME }}_FILTERS) {
        const int8_t *w = l->weights + (f & ~3) * wide + (f & 2) * 2;
        {{ NAME }}_FEW({{ NAME }}_NONE)
        for (const int16_t *v = values, *end = v + wide; v < end; v += 2, w += 8) { {{ NAME }}_MIX }
        {{ NAME }}_FEW({{ NAME }}_KEPT)
    }
}
{% endif %}

/* List what is not 0 under a filter, and where its weights are; y and x are of its upper left corner. */
static int {{ name }}_gather(struct {{ name }}_state *s, const struct {{ name }}_layer *l,
                      const {{ map_t }} *const *rows, int y, int x) {
    int k = l->kernel, channels = l->channels, count = 0;
    int left = x < 0 ? -x : 0, right = x + k > l->size ? l->size - x : k;
    int top = y < 0 ? -y : 0, bottom = y + k > l->size ? l->size - y : k;
{% if separable and not int8 %}
    if (l->depthwise) {
        for (; count < channels; count += 4) { /* beyond the channels come numbers that nobody reads */
            float sums[4];
            sums[0] = sums[1] = sums[2] = sums[3] = 0; /* an initialiser would become memset */
            for (int i = top; i < bottom; i++) {
                const float *from = rows[i] + (x + left) * channels + count;
                const float *w = l->depthwise + (i * k + left) * l->wide + count;
                for (int j = left; j < right; j++, from += channels, w += l->wide)
                    for (int c = 0; c < 4; c++) sums[c] += from[c] * w[c];
            }
            for (int c = 0; c < 4; c++) {
                s->values[count + c] = sums[c];
                s->at[count + c] = ({{ at_t }})((count + c) * l->padded);
            }
        }
        return channels;
    }
{% endif %}
    for (int i = top; i < bottom; i++) {
        const {{ map_t }} *from = rows[i] + (x + left) * channels;
        const {{ map_t }} *end = from + (right - left) * channels;
        int at = (i * k + left) * channels * l->padded;
        for (; from < end; from++, at += l->padded) {
            {{ map_t }} value = *from;
#if UINTPTR_MAX <= 0xffffffffu /* where a wrong guess costs little */
            if (value == 0) continue;
#endif
            s->values[count] = value;
            s->at[count] = ({{ at_t }})at;
            count += value != 0;
        }
    }
    return count;
}

/* Make one row of a layer: convolve, keep the largest of each 2x2 if it pools, norm, ReLU. */
static void {{ name }}_layer_row(struct {{ name }}_state *s, const struct {{ name }}_layer *l, int y, {{ map_t }} *out) {
    const {{ map_t }} *rows[{{ span }}];
    int {{ "before = l->before, after = l->after, " if int8 }}step = l->pool ? 2 : 1, top = step * y - l->padding, from = l->size, to = 0;
    for (int i = 0; i < l->kernel + step - 1; i++) {
        int slot = (top + i + l->slots) % l->slots;
        rows[i] = {% if pairs %}top + i < 0 || top + i >= l->size ? 0 : {% endif %}s->maps + l->map + slot * l->size * l->channels;
        if (l != {{ name }}_layers) from = 0, to = l->size;
        else {
            if (s->from[slot] < from) from = s->from[slot];
            if (s->to[slot] > to) to = s->to[slot];
        }
    }
    int across = {{ "l->depthwise ? 2 : " if pairs }}step, made = across / step; /* places in a row */
    for (int x = 0; x < l->out; x += made) {
        int left = step * x - l->padding, blank = left + l->kernel + step - 1 <= from || left >= to;
{% if border %}
        if (l == {{ name }}_layers && (left < {{ border }} || left + l->kernel + step - 1 > {{ seen + border }})) blank = 0;
{% endif %}
        {{ "if (l->norm_before_pool) blank = 0;" if norm_before_pool }}
        for (int f = 0; blank && f < l->filters; f++) s->best[f] = 0; /* no ink */
        for (int place = 0; !blank && place < step * across; place++) {
            int down = place >> 1, column = step * x + (place & 1) - l->padding, f = 0;
            int count = 0, beyond = column + l->kernel;
{% if norm_before_pool %}
            int now = l->norm_before_pool;
            {{ sum_t }} *best = now ? s->one : s->best;
{% endif %}
{% set into = "best" if norm_before_pool else "s->best" %}
{% set first = "place == 0 || now" if norm_before_pool else "place == 0" %}
{% if pairs %}
            if (l->depthwise) {
                int pool = {{ "!now && " if norm_before_pool }}l->pool;
                {{ "int32_t *best = s->best;" if not norm_before_pool }}
                if (!(place & 1)) {
                    {{ name }}_depthwise(s, l, rows + down, {{ "top + down, " if slow }}column);
{% if unmixed %}
                    for (; !l->weights && f < l->filters; f++) {
                        int32_t a0 = s->values[f], a1 = s->values[{{ half }} + f];
                        {{ NAME }}_KEPT(a, f)
                    }
                    if (l->weights)
{% endif %}
                    {{ name }}_mix(s->values, l, best, pool, place);
                }
                f = l->padded;
            } else
{% endif %}
            if ((beyond > from && column < to){% if border %} || (l == {{ name }}_layers && (column < {{ border }} || beyond > {{ seen + border }})){% endif %})
                count = {{ name }}_gather(s, l, rows + down, top + down, column);
{% if int8 %}
#ifdef {{ NAME }}_SMLAD
            if (count % 2) s->values[count] = 0, s->at[count++] = 0;
#endif
{% elif unmixed %}
            if (!l->weights) {
                for (; f < l->filters; f++) {
                    {{ sum_t }} value = count ? s->values[f] : 0;
                    if ({{ first }} || value > {{ into }}[f]) {{ into }}[f] = value;
                }
                f = l->padded;
            }
{% endif %}
#ifdef {{ NAME }}_WIDER
            for (; f + 16 <= l->padded; f += 16) {{ name }}_dot4(s, count, l->weights + f, {{ into }} + f, {{ first }});
#endif
#ifdef {{ NAME }}_WIDE
            for (; f + 8 <= l->padded; f += 8) {{ name }}_dot2(s, count, l->weights + f, {{ into }} + f, {{ first }});
#endif
            for (; f < l->padded; f += 4) {{ name }}_dot1(s, count, l->weights + f, {{ into }} + f, {{ first }});
{% if norm_before_pool %}
            int right = {{ "l->depthwise && place & 1" if pairs else "0" }} ? {{ widest }} : 0, keep = l->pool ? 0 : right;
            for (f = 0; now && f < l->filters; f++) {
                {{ sum_t }} value = {{ name }}_norm(s->one[right + f], l->norm + {{ "3 * f, before, after" if int8 else "f, l->filters" }});
{% if residual %}
                if (l->residual) {
                    {{ map_t }} in = rows[down + l->padding][(column + l->padding) * l->channels + f];
{% if int8 %}
                    value += (int32_t)((in * (uint32_t)l->residual + ((uint32_t)1 << (l->after - 1))) >> l->after);
                    if (value > 255) value = 255;
{% else %}
                    value += in;
{% endif %}
                }
{% endif %}
                if (place == 0 || keep || value > s->best[f]) s->best[keep + f] = value;
            }
{% endif %}
        }
{% if int8 %}
        for (int i = 0; i < made && x + i < l->out; i++) {
            const int32_t *norm = l->norm, *best = s->best + i * {{ widest }};
            for (int f = 0, filters = l->filters; f < filters; f++, norm += 3) {
                int32_t value = {% if norm_before_pool %}l->norm_before_pool ? best[f] : {% endif %}{{ name }}_norm(best[f], norm, before, after);
                if (out) *out++ = (uint8_t)value;
                else s->sums[f] += value;
            }
        }
{% else %}
        float *into = out ? out + x * l->filters : s->row;
        for (int f = 0; f < l->filters; f += 4)
            for (int i = f; i < f + 4; i++) {
                float value = {% if norm_before_pool %}l->norm_before_pool ? s->best[i] : {% endif %}{{ name }}_norm(s->best[i], l->norm + i, l->filters);
                into[i] = value;
            }
        for (int f = 0; !out && f < l->filters; f++) s->sums[f] += s->row[f];
{% endif %}
    }
}

/* Make all rows that can be made of those that there are, the last layers' first. */
static void {{ name }}_run(struct {{ name }}_state *s) {
    for (int i = {{ layers|length - 1 }}; i >= 0;) {
        const struct {{ name }}_layer *l = {{ name }}_layers + i, *to = l + 1;
        int y = s->rows[i + 1], step = l->pool ? 2 : 1;
        int need = step * y + step - 1 + l->kernel - l->padding;
        if (y >= l->out || s->rows[i] < (need < l->size ? need : l->size)) {
            i--;
            continue;
        }
        {{ map_t }} *out = 0;
        if (i < {{ layers|length - 1 }}) out = s->maps + to->map + y % to->slots * to->size * to->channels;
        {{ name }}_layer_row(s, l, y, out);
        s->rows[i + 1]++;
        i = {{ layers|length - 1 }};
    }
}

/* Take a row of what the first layer sees; a null pointer is one outside the picture. */
static void {{ name }}_push(struct {{ name }}_state *s, const {{ map_t }} *pixels) {
    int slot = s->rows[0] % {{ table[0].slots }}, from = {{ table[0].size }}, to = 0;
    {{ map_t }} *row = s->maps + slot * {{ table[0].size }};
    for (int x = 0; x < {{ table[0].size }}; x++) {
        int inside = pixels && x >= {{ border }} && x < {{ seen + border }};
        row[x] = inside ? pixels[x - {{ border }}] : {{ outside }};
        if ((inside || !pixels) && row[x] != 0) {
            if (to == 0) from = x;
            to = x + 1;
        }
    }
    s->from[slot] = ({{ row_t }})from;
    s->to[slot] = ({{ row_t }})to;
    s->rows[0]++;
    {{ name }}_run(s);
}

void {{ name }}_start(struct {{ name }}_state *s) {
    /* volatile, because compilers replace other loops by memset, which a bare board may lack */
    volatile {{ sum_t }} *sums = s->sums;
    volatile {{ row_t }} *rows = s->rows;
    for (int i = 0; i < {{ table[-1].filters }}; i++) sums[i] = 0;
    for (int i = 0; i < {{ layers|length + 1 }}; i++) rows[i] = 0;
    s->seen = 0;
{% if align %}
    s->mass = s->x = s->y = 0;
    s->xy = s->yy = {{ "s->xx = " if resize }}0;
    s->looked = s->made = 0;
    volatile uint8_t *above = s->above;
    for (int i = 0; i < {{ side }}; i++) above[i] = 0;
{% endif %}
    for (int i = 0; i < {{ border }}; i++) {{ name }}_push(s, 0);
}

{% if align %}
int {{ name }}_look(struct {{ name }}_state *s, const uint8_t *row) {
    if (s->looked >= {{ side }} || s->seen > 0) return -1;
    {{ moment_t }} y = 2 * s->looked++ - {{ side - 1 }}, mass = 0, x = 0;
    for (int i = 0; i < {{ side }}; i++) {
        mass += row[i];
        x += ({{ moment_t }})row[i] * (2 * i - {{ side - 1 }});
{% if resize %}
        s->xx += ({{ moment_t }})row[i] * (2 * i - {{ side - 1 }}) * (2 * i - {{ side - 1 }});
{% endif %}
    }
    s->mass += mass;
    s->x += x;
    s->y += mass * y;
    s->xy += x * y;
    s->yy += mass * y * y;
    return 0;
}

{% if resize %}
{% set typical = ((2 * across * side) ** 2, (2 * down * side) ** 2) %}
{% if int8 %}
static uint32_t {{ name }}_root(uint32_t square) {
    uint32_t root = 0;
    for (uint32_t bit = (uint32_t)1 << 30; bit > 0; bit >>= 2) {
        uint32_t more = root + bit;
        root >>= 1;
        if (square >= more) square -= more, root += bit;
    }
    return root;
}

/* The fourth root of a ratio in 2^28ths, in 65536ths, from {{ finest }} to {{ coarsest }}. */
static int32_t {{ name }}_side(int64_t ratio) {
    if (ratio < {{ (finest ** 4 * 2**28)|int }}) ratio = {{ (finest ** 4 * 2**28)|int }};
    if (ratio > {{ (coarsest ** 4 * 2**28)|int }}) ratio = {{ (coarsest ** 4 * 2**28)|int }};
    return (int32_t)(2 * {{ name }}_root({{ name }}_root((uint32_t)ratio) << 16));
}
{% else %}
/* The fourth root of a ratio, from {{ finest }} to {{ coarsest }}, by Newton's method. */
static float {{ name }}_side(float ratio) {
    float least = {{ finest ** 4 }}f, most = {{ coarsest ** 4 }}f, root = 1;
    ratio = ratio < least ? least : ratio > most ? most : ratio;
    for (int i = 0; i < 8; i++) root = (3 * root + ratio / (root * root * root)) / 4;
    return root;
}
{% endif %}

{% endif %}
/* Find from the moments where the middle is and how much the ink leans, at most {{ steepest }}. */
{{ NAME }}_ALONE void {{ name }}_settle(struct {{ name }}_state *s) {
    s->right = s->down = s->slant = {{ "s->wide = s->high = " if resize }}0;
    if (s->mass == 0) return;
    int64_t mass = s->mass, both = mass * s->xy - (int64_t)s->x * s->y;
    int64_t own = mass * s->yy - (int64_t)s->y * s->y;
{% if int8 %}
    s->right = (int32_t)((int64_t)s->x * 32768 / mass); /* in 65536ths of a pixel */
    s->down = (int32_t)((int64_t)s->y * 32768 / mass);
    if (own > 0) {
        int64_t slant = {% if squeeze > 1 %}both / {{ squeeze }} * 65536 / (own / {{ squeeze }} + 1){% else %}both * 65536 / own{% endif %};
        s->slant = slant > {{ steep }} ? {{ steep }} : slant < -{{ steep }} ? -{{ steep }} : (int32_t)slant;
{% if zoomed and not resize %}
        s->slant = (int32_t)((int64_t)s->slant * {{ step }} / 65536);
{% endif %}
    }
{% if resize %}
    int64_t lean = s->slant, xx = (mass * s->xx - (int64_t)s->x * s->x) / mass * 256 / mass;
    int64_t xy = both / mass * 256 / mass, yy = own / mass * 256 / mass; /* variances, in 1024ths of a pixel */
    xx += (lean * lean / 65536 * yy - 2 * lean * xy) / 65536;
    int32_t high = {{ name }}_side(yy * {{ (2**28 / 256 / typical[1])|round|int }});
    s->wide = (int32_t)((int64_t){{ name }}_side(xx * {{ (2**28 / 256 / typical[0])|round|int }}) * {{ step }} / 65536);
    s->high = (int32_t)((int64_t)high * {{ step }} / 65536);
    s->slant = (int32_t)(lean * s->high / 65536);
    s->right += {{ (side - 1) * 32768 }} - s->wide * {{ seen - 1 }} / 2;
    s->down += {{ (side - 1) * 32768 }} - s->high * {{ seen - 1 }} / 2;
{% endif %}
{% else %}
    s->right = (float)s->x / (2.0f * (float)mass);
    s->down = (float)s->y / (2.0f * (float)mass);
    if (own > 0) {
        float slant = (float)both / (float)own;
        s->slant = {{ step ~ " * (" if zoomed and not resize }}slant > {{ steepest }}f ? {{ steepest }}f : slant < -{{ steepest }}f ? -{{ steepest }}f : slant{{ ")" if zoomed and not resize }};
    }
{% if resize %}
    float square = (float)mass * (float)mass, xx = (float)(mass * s->xx - (int64_t)s->x * s->x);
    xx += s->slant * (s->slant * (float)own - 2 * (float)both);
    s->wide = {{ step }} * {{ name }}_side(xx / square / {{ typical[0] }}f);
    s->high = {{ step }} * {{ name }}_side((float)own / square / {{ typical[1] }}f);
    s->slant *= s->high;
    s->right += {{ (side - 1) / 2 }}f - s->wide * {{ (seen - 1) / 2 }}f;
    s->down += {{ (side - 1) / 2 }}f - s->high * {{ (seen - 1) / 2 }}f;
{% endif %}
{% endif %}
}

/* The pixel before a place, and how far that is beyond it. */
static int {{ name }}_floor({{ sum_t }} place, {{ sum_t }} *beyond) {
{% if int8 %}
    uint32_t above = (uint32_t)(place + 128) + {{ reach }} * (uint32_t)65536;
    *beyond = (int32_t)(above >> 8 & 255);
    return (int)(above >> 16) - {{ reach }};
{% else %}
    int whole = (int)(place + {{ reach }}.0f) - {{ reach }};
    *beyond = place - (float)whole;
    return whole;
{% endif %}
}

/* The row above the place that the next row of the straightened picture comes from. */
static int {{ name }}_above(const struct {{ name }}_state *s, {{ sum_t }} *down) {
{% if zoomed %}
    return {{ name }}_floor(s->down{{ further }} + {{ step_down }} * {{ "" if int8 else "(float)" }}s->made, down);
{% else %}
    return {{ name }}_floor(s->down{{ further }}, down) + s->made;
{% endif %}
}

/* Make that row from two of the given ones, of which the second has the share `down`. */
static void {{ name }}_straighten(struct {{ name }}_state *s, const uint8_t *above, const uint8_t *below, {{ sum_t }} down) {
    {{ map_t }} row[{{ seen }}];
    {{ sum_t }} right, one = {{ "256" if int8 else "1.0f" }};
    {{ sum_t }} place = s->right{{ further }} + s->slant * {{ "" if int8 else "(float)" }}(2 * s->made - {{ seen - 1 }}) / 2;
    for (int i = 0, x = {{ name }}_floor(place, &right); i < {{ seen }}; i++, x++) {
        {{ sum_t }} left = 0, next = 0;
{% if zoomed %}
        x = {{ name }}_floor(place + {{ step_right }} * {{ "" if int8 else "(float)" }}i, &right);
{% endif %}
        if (x >= 0 && x < {{ side }}) left = above[x] * (one - down) + below[x] * down;
        if (x >= -1 && x < {{ side - 1 }}) next = above[x + 1] * (one - down) + below[x + 1] * down;
        row[i] = {{ "(uint8_t)((left * (one - right) + next * right + 32768) / 65536)" if int8 else "left * (one - right) + next * right" }};
    }
    s->made++;
    {{ name }}_push(s, row);
}

static void {{ name }}_take(struct {{ name }}_state *s, const uint8_t *row) {
    static const uint8_t blank[{{ side }}] = {0};
    if (s->seen == 0) {{ name }}_settle(s);
    while (s->made < {{ seen }}) {
        {{ sum_t }} down;
        int below = {{ name }}_above(s, &down) + 1;
        if (below > s->seen) break;
        if (below == s->seen) {{ name }}_straighten(s, s->above, row, down);
        else {{ name }}_straighten(s, blank, blank, down); /* above the picture */
    }
    volatile uint8_t *above = s->above; /* see {{ name }}_start */
    for (int i = 0; i < {{ side }}; i++) above[i] = row[i];
    s->seen++;
}

int {{ name }}_row(struct {{ name }}_state *s, const uint8_t *row) {
    if (s->looked != {{ side }} || s->seen >= {{ side }}) return -1;
    {{ name }}_take(s, row);
    return 0;
}
{% else %}
int {{ name }}_row(struct {{ name }}_state *s, const uint8_t *row) {
    if (s->seen >= {{ side }}) return -1;
    s->seen++;
{% if int8 %}
    {{ name }}_push(s, row);
{% else %}
    float pixels[{{ side }}];
    for (int i = 0; i < {{ side }}; i++) pixels[i] = row[i];
    {{ name }}_push(s, pixels);
{% endif %}
    return 0;
}
{% endif %}

int {{ name }}_finish(struct {{ name }}_state *s, {{ sum_t }} *logits) {
    int best = 0;
    {{ sum_t }} most = 0;
    if (s->seen != {{ side }}) return -1;
{% if align %}
    static const uint8_t blank[{{ side }}] = {0};
    {{ name }}_take(s, blank);
    while (s->made < {{ seen }}) {{ name }}_straighten(s, blank, blank, 0);
{% endif %}
{% if not align %}
    s->seen++;
{% endif %}
    for (int i = 0; i < {{ border }}; i++) {{ name }}_push(s, 0);
    for (int d = 0; d < {{ classes }}; d++) {
        {{ sum_t }} sum = {{ at32 }}({{ name }}_linear_bias + d);
        for (int f = 0; f < {{ table[-1].filters }}; f++)
            sum += s->sums[f] * {{ at16 }}({{ name }}_linear + d * {{ table[-1].filters }} + f);
        if (logits) logits[d] = sum;
        if (d == 0 || sum > most) {
            best = d;
            most = sum;
        }
    }
    return best;
}

int {{ name }}_predict(struct {{ name }}_state *s, const uint8_t *pixels, {{ sum_t }} *logits) {
    {{ name }}_start(s);
{% if align %}
    for (int y = 0; y < {{ side }}; y++) {{ name }}_look(s, pixels + {{ side }} * y);
{% endif %}
    for (int y = 0; y < {{ side }}; y++) {{ name }}_row(s, pixels + {{ side }} * y);
    return {{ name }}_finish(s, logits);
}
#endif
{% if answers is not none %}

#if defined({{ NAME }}_SELFTEST) && !defined({{ NAME }}_SELFTESTED)
#define {{ NAME }}_SELFTESTED
/* Return 0, or the number, from 1, of the first of {{ answers|length }} pictures that has other logits than on a PC. */
static inline int {{ name }}_selftest(struct {{ name }}_state *s) {
    static const uint8_t pixels[{{ answers|length }}][{{ side * side }}] {{ flash }}= {
{% for picture in pictures %}
        {
{% for row in picture[0].tolist() %}
            {{ row|join(",") }},
{% endfor %}
        },
{% endfor %}
    };
    static const {{ sum_t }} wanted[{{ answers|length }}][{{ classes }}] {{ flash }}= {
{% for logits in answers %}
        { {{- text(logits) }}},
{% endfor %}
    };
    for (int n = 0; n < {{ answers|length }}; n++) {
        {{ sum_t }} got[{{ classes }}];
        {{ name }}_start(s);
        for (int y = 0; y < {{ 2 * side if align else side }}; y++) {
            uint8_t row[{{ side }}];
            for (int x = 0; x < {{ side }}; x++) row[x] = (uint8_t){{ at8 }}(pixels[n] + {{ side }} * {{ "(y % " ~ side ~ ")" if align else "y" }} + x);
{% if align %}
            if (y < {{ side }}) {{ name }}_look(s, row);
            else
{% endif %}
            {{ name }}_row(s, row);
        }
        if ({{ name }}_finish(s, got) < 0) return n + 1;
        for (int d = 0; d < {{ classes }}; d++) {
{% if int8 %}
            if (got[d] != {{ at32 }}(wanted[n] + d)) return n + 1;
{% else %}
            float off = got[d] - wanted[n][d];
            if (!(off < {{ tolerance }}f && off > -{{ tolerance }}f)) return n + 1;
{% endif %}
        }
    }
    return 0;
}
#endif
{% endif %}
