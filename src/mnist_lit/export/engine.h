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
{% set lists = not int8 or (layers|selectattr("depthwise", "none")|list|length) > (stem > 0)|int %}{# Others list what is not 0. #}
{% set together = "1" if not pairs else "(l->depthwise ? 2 : 1)" if lists else "2" %}
{% set after = (table|map(attribute="after")|unique|list)[0] if int8 and (table|map(attribute="after")|unique|list|length) == 1 else "l->after" %}
{% set kernels = ([usual] if pairs else []) + ([stem] if stem and stem != usual else []) %}
{# Behind a depthwise convolution's map, a channel's row is in one piece. #}
{% set deep = layers[1:]|rejectattr("depthwise", "none")|list|length if int8 else 0 %}
{% set planar = "1" if deep == layers|length - 1 else "out && (l + 1)->depthwise" if deep else "0" %}
{% set apart = "end" if planar == "1" else "1" if planar == "0" else "apart" %}
{% set beside = "1" if planar == "1" else "l->filters" if planar == "0" else "beside" %}
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
{% if lists %}
    {{ at_t }} at[{{ listed }}]; /* and where its weights are */
{% endif %}
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
#define {{ NAME }}_STARTS(layer) ((layer)->map == 0)
#define {{ NAME }}_LAYERS(layer, i) /* a copy of one and the next */ \
    struct {{ name }}_layer layer[2]; \
    memcpy_P(layer, {{ name }}_layers + i, ((i < {{ layers|length - 1 }}) + 1) * sizeof *layer);
#define {{ NAME }}_I8(p) ((int8_t)pgm_read_byte(p))
#define {{ NAME }}_I16(p) ((int16_t)pgm_read_word(p))
#define {{ NAME }}_I32(p) ((int32_t)pgm_read_dword(p))
#else
#define {{ NAME }}_FLASH
#define {{ NAME }}_STARTS(layer) ((layer) == {{ name }}_layers)
#define {{ NAME }}_LAYERS(layer, i) const struct {{ name }}_layer *layer = {{ name }}_layers + i;
#define {{ NAME }}_I8(p) (*(p))
#define {{ NAME }}_I16(p) (*(p))
#define {{ NAME }}_I32(p) (*(p))
#endif
{% set flash, at8, at16, at32 = NAME ~ "_FLASH ", NAME ~ "_I8", NAME ~ "_I16", NAME ~ "_I32" %}
{% else %}
#define {{ NAME }}_AT(p) (*(p))
#define {{ NAME }}_STARTS(layer) ((layer) == {{ name }}_layers)
#define {{ NAME }}_LAYERS(layer, i) const struct {{ name }}_layer *layer = {{ name }}_layers + i;
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
    const {{ weight_t }} *weights; /* {{ "of the first layer [filter][row][column]" if stem else "[row][column][channel][filter]" }}{% if pairs %}; of a separable layer [filter / 4][channel / 2][filter % 4 / 2][channel % 2][filter % 2]{% endif %}{% if unmixed %}, or 0: each filter is a channel{% endif %} */
    const {{ sum_t }} *norm; /* of each filter: {{ "shift, scale, largest" if int8 else "scale, shift" }} */
{% if separable %}
    const {{ weight_t }} *depthwise; /* depthwise filters before it: {{ "of each channel: [row][column], and two bytes of a factor" if int8 else "[row][column][channel]" }} */
{% endif %}
{% for field, kind in fields.items() %}
    {{ kind }} {{ field }};
{% endfor %}
};

{% for key, values in arrays.items() %}
static const {{ values.dtype ~ "_t" if int8 else "float" }} {{ name }}_{{ key }}[{{ values.size }}] {{ flash }}= {
    {{ text(values) }}};
{% endfor %}

/* {{ (["weights", "norm"] + (["depthwise"] if separable else []) + fields|list)|join(", ") }} */
static const struct {{ name }}_layer {{ name }}_layers[{{ layers|length }}] {{ flash }}= {
{% for layer in layers %}
{% set row = table[loop.index0] %}
{% set depthwise = name ~ "_depthwise" ~ layer.block if layer.depthwise is not none else "" %}
    { {{- name ~ "_conv" ~ layer.block if layer.mixed else 0 }}, {{ name }}_norm{{ loop.index }}
{%- if separable %}, {{ depthwise or 0 }}{% endif %}
{%- for value in row.values() %}, {{ value }}{% endfor %} },
{% endfor %}
};

{% if int8 %}
/* Some processors add two products of 16 bits in one step, which no compiler finds in C. */
#if defined(__arm__) && defined(__ARM_FEATURE_UNALIGNED) && defined(__GNUC__) && !defined(__ARM_BIG_ENDIAN)
#define {{ NAME }}_WORDS
static inline uint32_t {{ name }}_word(const void *from) {
    uint32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}
#define {{ NAME }}_LOAD(word, from) /* here: compilers load many at once, and lack registers for them */ \
    __asm__("ldr %0, %1" : "=r"(word) : "m"(*(const uint8_t (*)[4])(from)));
#ifdef __ARM_FEATURE_SIMD32
#define {{ NAME }}_SMLAD
#endif
#endif
{% endif %}

{% if pairs %}
/* Add a product with a byte y: x has 8 bits and no sign, or 16. */
#ifdef __AVR__ /* where compilers call functions for it */
#define {{ NAME }}_MAC(sum, x, y) { \
    uint8_t sign; \
    __asm__("mulsu %3, %2\n\tclr %1\n\tsbrc r1, 7\n\tdec %1\n\tadd %A0, r0\n\tadc %B0, r1\n\tadc %C0, %1\n\tadc %D0, %1\n\tclr r1" \
            : "+r"(sum), "=&r"(sign) : "a"((uint8_t)(x)), "a"((int8_t)(y))); }
#define {{ NAME }}_NEXT16(sum, y) { /* of the value at v, and go to the next */ \
    uint8_t sign; \
    int16_t x; \
    __asm__("ld %A3, X+\n\tld %B3, X+\n\tmuls %B3, %4\n\tclr %1\n\tsbrc r1, 7\n\tdec %1\n\tadd %B0, r0\n\tadc %C0, r1\n\tadc %D0, %1\n\t" \
            "mulsu %4, %A3\n\tclr %1\n\tsbrc r1, 7\n\tdec %1\n\tadd %A0, r0\n\tadc %B0, r1\n\tadc %C0, %1\n\tadc %D0, %1\n\tclr r1" \
            : "+l"(sum), "=&r"(sign), "+x"(v), "=&a"(x) : "a"(y) : "memory"); }
#elif defined(__riscv) && !defined(__riscv_mul) && !defined(__riscv_zmmul) && defined(__GNUC__)
/* A product is a difference of quarter squares where the processor cannot multiply. */
#define {{ NAME }}_Q(n) (uint16_t)((n) * (n) / 4),
#define {{ NAME }}_Q4(n) {{ NAME }}_Q(n) {{ NAME }}_Q((n) + 1) {{ NAME }}_Q((n) + 2) {{ NAME }}_Q((n) + 3)
#define {{ NAME }}_Q16(n) {{ NAME }}_Q4(n) {{ NAME }}_Q4((n) + 4) {{ NAME }}_Q4((n) + 8) {{ NAME }}_Q4((n) + 12)
#define {{ NAME }}_Q64(n) {{ NAME }}_Q16(n) {{ NAME }}_Q16((n) + 16) {{ NAME }}_Q16((n) + 32) {{ NAME }}_Q16((n) + 48)
static uint16_t const {{ name }}_quarters[640] = {
    {{ NAME }}_Q64(-256) {{ NAME }}_Q64(-192) {{ NAME }}_Q64(-128) {{ NAME }}_Q64(-64) {{ NAME }}_Q64(0)
    {{ NAME }}_Q64(64) {{ NAME }}_Q64(128) {{ NAME }}_Q64(192) {{ NAME }}_Q64(256) {{ NAME }}_Q64(320) };
static inline int {{ name }}_times(int x, int y) {
    int sum, z; /* compilers would do many of these at once, and lack registers for them */
    __asm__("slli %1, %3, 1\n\tadd %0, %2, %1\n\tsub %1, %2, %1\n\tlhu %0, 0(%0)\n\tlhu %1, 0(%1)\n\tsub %0, %0, %1"
            : "=&r"(sum), "=&r"(z) : "r"({{ name }}_quarters + 256 + x), "r"(y));
    return sum;
}
#define {{ NAME }}_MAC(sum, x, y) sum += {{ name }}_times(x, y);
#define {{ NAME }}_MAC16(sum, x, y) sum += {{ name }}_times((x) >> 8, y) * 256 + {{ name }}_times((x) & 255, y);
#else
#define {{ NAME }}_MAC(sum, x, y) sum += (x) * (y);
#define {{ NAME }}_MAC16(sum, x, y) sum += (x) * (y);
#endif

{% endif %}
{% if lists %}
/* Add {{ 4 }}, 8{% if widest >= 16 %} or 16{% endif %} filters at one place, and keep the largest of all places. */
{% if int8 %}
#ifdef {{ NAME }}_SMLAD /* two entries at once */
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
{% endif %}

{% if int8 %}
/* Shift, scale to 0 to 255, and cut off below 0 and above. */
static inline int32_t {{ name }}_norm(int32_t sum, const int32_t *norm, int before, int after) {
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

/* Do this with the sums of a place. */
{{ NAME }}_ALONE void {{ name }}_write(const struct {{ name }}_layer *l, const int32_t *best, uint8_t *out, int apart) {
    int before = l->before, after = {{ after }};
    const int32_t *norm = l->norm;
    for (const int32_t *end = best + l->filters; best < end; best++, norm += 3, out += apart)
        *out = (uint8_t){% if norm_before_pool %}(l->norm_before_pool ? *best : {% endif %}{{ name }}_norm(*best, norm, before, after){{ ")" if norm_before_pool }};
}
{% else %}
static float {{ name }}_norm(float sum, const float *norm, int filters) {
    float value = sum * norm[0] + norm[filters];
    return value > 0.0f ? value : 0.0f;
}
{% endif %}

{% if slow and int8 %}
/* Return the depthwise sum of a channel at one place; y and x are of its upper left corner. */
{{ NAME }}_APART int32_t {{ name }}_tap(const struct {{ name }}_layer *l, const uint8_t *const *rows, int y, int x, int c) {
    int k = l->kernel, size = l->size;
    int32_t sum = 0;
    for (int i = y < 0 ? -y : 0; i < k && y + i < size; i++)
        for (int j = x < 0 ? -x : 0; j < k && x + j < size; j++)
            sum += rows[i][c * size + x + j] * {{ at8 }}(l->depthwise + c * (k * k + 2) + i * k + j); /* 16 bits */
    return sum;
}

{% endif %}
{% for k in kernels %}
/* USE reads a row, in which a mask makes 0 of what is outside, and does something, but for words of zeros only.
 * ADD adds the products of a row of the kernel at a place and at the next. */
{% if k == 3 %}
#ifdef {{ NAME }}_WORDS
#define {{ NAME }}_ROW3(row, from) uint32_t row; {{ NAME }}_LOAD(row, from)
#endif
{% endif %}
{% if k in (3, 5) %}
#ifdef {{ NAME }}_SMLAD
{% if k == 3 %}
#define {{ NAME }}_USE3(row, mask, DO) { \
    uint32_t e, o = row & (mask); \
    if (o) { __asm__("uxtb16 %0, %1\n\tuxtb16 %1, %1, ror #8" : "=&r"(e), "+r"(o)); DO } }
#define {{ NAME }}_ADD3(one, two, from) { \
    uint32_t v, k; \
    __asm__("ldr %3, %6\n\tsxtb16 %2, %3\n\tsxtb16 %3, %3, ror #8\n\tsmlad %0, %4, %2, %0\n\tsmlad %1, %5, %2, %1\n\t" \
            "smlabb %0, %5, %3, %0\n\tsmlatb %1, %4, %3, %1" \
            : "+r"(one), "+r"(two), "=&r"(v), "=&r"(k) : "r"(e), "r"(o), "m"(*(const int8_t (*)[4])(from))); }
{% else %}
#define {{ NAME }}_USE5(from, mask, DO) { \
    uint32_t e, o, g, h; \
    {{ NAME }}_LOAD(o, from) {{ NAME }}_LOAD(h, (from) + 2) \
    o &= (mask) | 0xff000000, h &= (mask) | 255; \
    if (o | h) { \
        __asm__("uxtb16 %0, %1\n\tuxtb16 %1, %1, ror #8\n\tuxtb16 %2, %3\n\tuxtb16 %3, %3, ror #8" \
                : "=&r"(e), "+r"(o), "=&r"(g), "+r"(h)); DO } }
#define {{ NAME }}_ADD5(one, two, from) { \
    uint32_t v, k; \
    __asm__("ldr %3, %8\n\tsxtb16 %2, %3\n\tsxtb16 %3, %3, ror #8\n\tsmlad %0, %4, %2, %0\n\tsmlad %1, %5, %2, %1\n\t" \
            "ldrsb %2, %9\n\tsmlad %0, %5, %3, %0\n\tsmlad %1, %6, %3, %1\n\tsmlatb %0, %6, %2, %0\n\tsmlatb %1, %7, %2, %1" \
            : "+r"(one), "+r"(two), "=&r"(v), "=&r"(k) \
            : "r"(e), "r"(o), "r"(g), "r"(h), "m"(*(const int8_t (*)[4])(from)), "m"((from)[4])); }
{% endif %}
#else
{% endif %}
{% if k == 3 %}
#ifdef {{ NAME }}_WORDS
#define {{ NAME }}_USE3(row, mask, DO) { \
    uint32_t in = row & (mask); \
    int in0 = (int)(in & 255), in1 = (int)(in >> 8 & 255), in2 = (int)(in >> 16 & 255), in3 = (int)(in >> 24); \
    if (in) { DO } }
#endif
{% endif %}
#define {{ NAME }}_ADD{{ k }}(one, two, from) {% for j in range(k) %}{ \
    int8_t weight = {{ at8 }}((from) + {{ j }}); {{ NAME }}_MAC(one, in{{ j }}, weight) {{ NAME }}_MAC(two, in{{ j + 1 }}, weight) } {% endfor %}

{% if k in (3, 5) %}
#endif
{% endif %}
#ifndef {{ NAME }}_ROW{{ k }}
#define {{ NAME }}_ROW{{ k }}(row, from) const uint8_t *row = from;
#endif
#ifndef {{ NAME }}_USE{{ k }}
#define {{ NAME }}_USE{{ k }}(row, mask, DO) { \
    int in0 = row[0] & (int)((mask) & 255){% for j in range(1, k) %}, in{{ j }} = row[{{ j }}]{% endfor %}, in{{ k }} = row[{{ k }}] & (int)((mask) >> 24); \
    DO }
#endif
{% endfor %}

{% if pairs %}
/* Where the depthwise sum of a channel at one of two places is. */
#ifdef {{ NAME }}_SMLAD
#define {{ NAME }}_SUM(c, place) ({{ half }} * (place) + (c))
#else
#define {{ NAME }}_SUM(c, place) (2 * (c) + (place))
#endif
/* Make the depthwise sums of all channels at a place and at the next in its row. */
{{ NAME }}_ALONE void {{ name }}_depthwise(struct {{ name }}_state *s, const struct {{ name }}_layer *l,
                          const uint8_t *const *rows, {{ "int y, " if slow }}int x) {
    int channels = l->channels, size = l->size, shift = l->depthwise_shift, at = x;
    uint32_t mask = (x < 0 ? 0xffffff00 : 0xffffffff) & (x + {{ usual }} < size ? 0xffffffff : 0x00ffffff);
    int32_t half = (int32_t)1 << (shift - 1);
{% if slow %}
    int fast = l->kernel == {{ usual }} && x >= -1 && x + {{ usual }} <= size; /* at most one column is outside */
{% endif %}
    const int8_t *w = l->depthwise;
{% if usual == 3 %}
#ifdef {{ NAME }}_WORDS /* a row outside the map is masked */
{% for i in range(3) %}
    const uint8_t *row{{ i }} = (rows[{{ i }}] ? rows[{{ i }}] : s->maps + l->map) + x;
    uint32_t mask{{ i }} = rows[{{ i }}] ? mask : 0;
{% endfor %}
    int below1 = (int)(row1 - row0), below2 = (int)(row2 - row0);
#endif
{% endif %}
    for (int c = 0; c < channels; c++, at += size) {
        int32_t one = 0, two = 0;
{% if slow %}
        if (!fast) {
            one = {{ name }}_tap(l, rows, y, x, c);
            if (x + 1 < size) two = {{ name }}_tap(l, rows, y, x + 1, c);
        } else
{% endif %}
        {
{% if usual == 3 %}
#ifdef {{ NAME }}_WORDS
            __asm__("" : "+r"(row0)); /* one pointer for three rows */
{% for i in range(3) %}
            { {{ NAME }}_ROW3(row, row0{{ " + below%d"|format(i) if i }}) {{ NAME }}_USE3(row, mask{{ i }}, {{ NAME }}_ADD3(one, two, w + {{ 3 * i }})) }
{% endfor %}
            row0 += size;
#else
{% endif %}
{% for i in range(usual) %}
            if (rows[{{ i }}]) { {{ NAME }}_ROW{{ usual }}(row, rows[{{ i }}] + at) {{ NAME }}_USE{{ usual }}(row, mask, {{ NAME }}_ADD{{ usual }}(one, two, w + {{ usual * i }})) }
{% endfor %}
{% if usual == 3 %}
#endif
{% endif %}
        }
        w += {{ "l->kernel * l->kernel" if slow else usual * usual }} + 2;
        int32_t scale = {{ at8 }}(w - 1) * 256 + (uint8_t){{ at8 }}(w - 2);
        s->values[{{ NAME }}_SUM(c, 0)] = (int16_t)((uint32_t)(one * scale + half) >> shift); /* of which 16 bits are the same with a sign */
        s->values[{{ NAME }}_SUM(c, 1)] = (int16_t)((uint32_t)(two * scale + half) >> shift);
    }
    if (channels % 2) s->values[{{ NAME }}_SUM(channels, 0)] = s->values[{{ NAME }}_SUM(channels, 1)] = 0;
}

#define {{ NAME }}_NONE(a, i) int32_t a##0 = 0, a##1 = 0;
#define {{ NAME }}_KEPT(a, i) \
    if (!pool) best[{{ widest }} + i] = a##1; \
    else if (a##1 > a##0) a##0 = a##1; \
    if (!pool || place == 0 || a##0 > best[i]) best[i] = a##0;
/* Mix the channels of these two places to filters; a pooling keeps the larger. */
#ifdef __AVR__ /* which has few registers */
#define {{ NAME }}_FILTERS 1
#define {{ NAME }}_FEW(DO) DO(a, 0)
#define {{ NAME }}_MIX { \
        int8_t one = {{ at8 }}(w), two = {{ at8 }}(w + 2); \
        {{ NAME }}_NEXT16(a0, one) {{ NAME }}_NEXT16(a1, one) {{ NAME }}_NEXT16(a0, two) {{ NAME }}_NEXT16(a1, two) \
        v -= 4; }
#elif defined(__ARM_ARCH_6M__) || defined({{ NAME }}_QUARTERS)
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
#define {{ NAME }}_MIX2(n, a, b) {{ NAME }}_MIX1(n, a, 0) {{ NAME }}_MIX1(n, a, 1) {{ NAME }}_MIX1(n + 1, b, 0) {{ NAME }}_MIX1(n + 1, b, 1)
#define {{ NAME }}_MIX1(n, a, i) { \
    int16_t weight = {{ at8 }}(w + n + 2 * i); \
    {{ NAME }}_MAC16(a##0, v[2 * i], weight) {{ NAME }}_MAC16(a##1, v[2 * i + 1], weight) }
#endif
{{ NAME }}_ALONE void {{ name }}_mix(const int16_t *values, const struct {{ name }}_layer *l, int32_t *best, int pool, int place) {
    for (int f = 0, wide = l->wide; f < l->padded; f += {{ NAME }}_FILTERS, best += {{ NAME }}_FILTERS) {
        const int8_t *w = l->weights + (f & ~3) * wide + (f & 2) * 2 + (f & 1);
        {{ NAME }}_FEW({{ NAME }}_NONE)
        for (const int16_t *v = values, *end = v + {{ NAME }}_SUM(wide, 0); v < end; v += {{ NAME }}_SUM(2, 0), w += 8) { {{ NAME }}_MIX }
        {{ NAME }}_FEW({{ NAME }}_KEPT)
    }
}
{% endif %}
{% if stem %}

/* Make the sums of the first layer, of one channel, and keep the largest of four places. */
{{ NAME }}_ALONE void {{ name }}_stem(const uint8_t *const *rows, int x, int32_t *best) {
    const int8_t *w = {{ name }}_conv1;
{% for i in range(stem + 1) %}
    {{ NAME }}_ROW{{ stem }}(row{{ i }}, rows[{{ i }}] + x)
{% endfor %}
    for (int f = 0; f < {{ layers[0].filters }}; f++, w += {{ stem * stem }}) {
        int32_t a = 0, b = 0, c = 0, d = 0;
{% for i in range(stem + 1) %}
        {{ NAME }}_USE{{ stem }}(row{{ i }}, 0xffffffff,
            {{ "%s_ADD%d(a, b, w + %d) "|format(NAME, stem, stem * i) if i < stem }}{{ "%s_ADD%d(c, d, w + %d)"|format(NAME, stem, stem * (i - 1)) if i }})
{% endfor %}
        if (b > a) a = b;
        if (d > c) c = d;
        best[f] = a > c ? a : c;
    }
}
{% endif %}

{% if lists %}
/* List what is not 0 under a filter, and where its weights are; y and x are of its upper left corner. */
{{ NAME }}_APART int {{ name }}_gather(struct {{ name }}_state *s, const struct {{ name }}_layer *l,
                      const {{ map_t }} *const *rows, int y, int x) {
    int k = l->kernel, channels = l->channels, padded = l->padded;
    {{ entry_t }} *values = s->values;
    {{ at_t }} *to = s->at;
    int left = x < 0 ? -x : 0, right = x + k > l->size ? l->size - x : k;
    int top = y < 0 ? -y : 0, bottom = y + k > l->size ? l->size - y : k;
{% if separable and not int8 %}
    if (l->depthwise) {
        for (int count = 0; count < channels; count += 4) { /* beyond the channels come numbers that nobody reads */
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
        int at = (i * k + left) * channels * padded;
        for (; from < end; from++, at += padded) {
            {{ map_t }} value = *from;
#if UINTPTR_MAX <= 0xffffffffu /* where a wrong guess costs little */
            if (value == 0) continue;
#endif
            *values = value;
            *to = ({{ at_t }})at;
            values += value != 0, to += value != 0;
        }
    }
    return (int)(values - s->values);
}
{% endif %}

/* Make one row of a layer: convolve, keep the largest of each 2x2 if it pools, norm, ReLU. */
static void {{ name }}_layer_row(struct {{ name }}_state *s, const struct {{ name }}_layer *l, int y, {{ map_t }} *out) {
    const {{ map_t }} *rows[{{ span }}];
    int step = l->pool ? 2 : 1, kernel = l->kernel + step - 1, top = step * y - l->padding, from = 0, to = l->size;
    int first = {{ NAME }}_STARTS(l), end = l->out, slot = (top + l->slots) % l->slots;
    if (first) from = to, to = 0;
    for (int i = 0; i < kernel; i++) {
        rows[i] = {% if pairs %}top + i < 0 || top + i >= l->size ? 0 : {% endif %}s->maps + l->map + slot * l->size * l->channels;
        if (first && s->from[slot] < from) from = s->from[slot];
        if (first && s->to[slot] > to) to = s->to[slot];
        if (++slot == l->slots) slot = 0;
    }
    int across = {{ "2" if pairs and not lists else "l->depthwise ? 2 : step" if pairs else "step" }}, made = across == step ? 1 : 2; /* places in a row */
{% if apart == "apart" %}
    int planar = {{ planar }}, apart = planar ? end : 1, beside = planar ? 1 : l->filters;
{% endif %}
    for (int x = 0; x < end; x += made) {
        int left = step * x - l->padding, ready = 0;
        if (first && (left + kernel <= from || left >= to)) ready = {{ "!l->norm_before_pool" if norm_before_pool else "1" }};
{% if border %}
        if (left < {{ border }} || left + kernel > {{ seen + border }}) ready = 0;
{% endif %}
        for (int f = 0; ready && f < l->filters; f++) s->best[f] = 0; /* no ink */
{% if stem %}
        if (first && !ready) {
            {{ name }}_stem(rows, left, s->best);
            ready = 1;
        }
{% endif %}
        for (int place = 0; !ready && place < step * across; place += {{ together }}) {
            int down = place >> 1, column = left + (place & 1){{ ", f = 0" if lists or unmixed or norm_before_pool }};
{% if lists %}
            int count = 0, beyond = column + l->kernel;
{% endif %}
{% if norm_before_pool %}
            int now = l->norm_before_pool;
            {{ sum_t }} *best = now ? s->one : s->best;
{% endif %}
{% set into = "best" if norm_before_pool else "s->best" %}
{% set first = "place == 0 || now" if norm_before_pool else "place == 0" %}
{% if pairs %}
            {{ "if (l->depthwise) " if lists }}{
                int pool = {{ "!now && " if norm_before_pool }}l->pool;
                {{ "int32_t *best = s->best;" if not norm_before_pool }}
                {{ name }}_depthwise(s, l, rows + down, {{ "top + down, " if slow }}column);
{% if unmixed %}
                for (; !l->weights && f < l->filters; f++) {
                    int32_t a0 = s->values[{{ NAME }}_SUM(f, 0)], a1 = s->values[{{ NAME }}_SUM(f, 1)];
                    {{ NAME }}_KEPT(a, f)
                }
                if (l->weights)
{% endif %}
                {{ name }}_mix(s->values, l, best, pool, place);
{% if lists %}
                f = l->padded;
            } else
{% else %}
            }
{% endif %}
{% endif %}
{% if lists %}
            if ((beyond > from && column < to){% if border %} || ({{ NAME }}_STARTS(l) && (column < {{ border }} || beyond > {{ seen + border }})){% endif %})
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
{% endif %}
{% if norm_before_pool %}
            for (int each = place; now && each < place + {{ together }}; each++) {
                int right = {{ ("l->depthwise && " if lists) ~ "each & 1" if pairs else "0" }} ? {{ widest }} : 0, keep = l->pool ? 0 : right;
{% if residual %}
                int at = column + each - place + l->padding;
{% endif %}
                const {{ sum_t }} *norm = l->norm;
                for (f = 0; f < l->filters; f++, norm += {{ 3 if int8 else 1 }}) {
                    {{ sum_t }} value = {{ name }}_norm(s->one[right + f], norm, {{ "l->before, " ~ after if int8 else "l->filters" }});
{% if residual %}
                    if (l->residual) {
                        {{ map_t }} in = rows[down + l->padding][{% if pairs %}l->depthwise ? f * l->size + at : {% endif %}at * l->channels + f];
{% if int8 %}
                        value += (int32_t)((in * (uint32_t)l->residual + ((uint32_t)1 << (l->after - 1))) >> l->after);
                        if (value > 255) value = 255;
{% else %}
                        value += in;
{% endif %}
                    }
{% endif %}
                    if (each == 0 || keep || value > s->best[f]) s->best[keep + f] = value;
                }
            }
{% endif %}
        }
{% if int8 %}
        for (int i = 0; i < made && x + i < end; i++) {
            int32_t *best = s->best + i * {{ widest }};
            {{ name }}_write(l, best, out ? out : (uint8_t *)best, out ? {{ apart }} : 1);
            if (out) out += {{ beside }};
            for (int f = 0; !out && f < l->filters; f++) s->sums[f] += ((uint8_t *)best)[f];
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
        {{ NAME }}_LAYERS(l, i)
        const struct {{ name }}_layer *to = l + 1;
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
        if (out) i++;
    }
}

/* Return where the pixels of the next row are to be written, between those outside the picture. */
static {{ map_t }} *{{ name }}_next(struct {{ name }}_state *s) {
    {{ map_t }} *row = s->maps + s->rows[0] % {{ table[0].slots }} * {{ table[0].size }};
    for (int x = 0; x < {{ border }}; x++) row[x] = row[{{ table[0].size - 1 }} - x] = {{ outside }};
    return row + {{ border }};
}

/* Take the row that is written. */
static void {{ name }}_push(struct {{ name }}_state *s) {
    int slot = s->rows[0]++ % {{ table[0].slots }}, from = {{ border }}, to = {{ seen + border }};
    const {{ map_t }} *row = s->maps + slot * {{ table[0].size }};
    while (to > 0 && row[to - 1] == 0) to--;
    while (from < to && row[from] == 0) from++;
    s->from[slot] = ({{ row_t }})from;
    s->to[slot] = ({{ row_t }})to;
    {{ name }}_run(s);
}

/* Take rows outside the picture. */
static void {{ name }}_border(struct {{ name }}_state *s) {
    for (int i = 0; i < {{ border }}; i++) {
        volatile {{ map_t }} *row = {{ name }}_next(s); /* see {{ name }}_start */
        for (int x = 0; x < {{ seen }}; x++) row[x] = {{ outside }};
        {{ name }}_push(s);
    }
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
    {{ name }}_border(s);
}

{% if align %}
int {{ name }}_look(struct {{ name }}_state *s, const uint8_t *row) {
    if (s->looked >= {{ side }} || s->seen > 0) return -1;
    {{ moment_t }} y = 2 * s->looked++ - {{ side - 1 }}, mass = 0, x = 0;
    for (int i = 0; i < {{ side }}; i++) {
        mass += row[i];
        x -= 2 * mass; /* in the end, a pixel counts 2 * {{ side }} - 2 * i times */
{% if resize %}
        s->xx += ({{ moment_t }})row[i] * (2 * i - {{ side - 1 }}) * (2 * i - {{ side - 1 }});
{% endif %}
    }
    x += {{ side + 1 }} * mass;
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

/* Return the pixel between two rows, of which the second has the share `down`. */
static inline {{ sum_t }} {{ name }}_mixed(const uint8_t *above, const uint8_t *below, int x, {{ sum_t }} down) {
    if (x < 0 || x >= {{ side }}) return 0;
    return {{ "(int32_t)above[x] * 256 + (below[x] - above[x]) * down" if int8 else "above[x] * (1.0f - down) + below[x] * down" }};
}

/* Make that row from two of the given ones, of which the second has the share `down`. */
static void {{ name }}_straighten(struct {{ name }}_state *s, const uint8_t *above, const uint8_t *below, {{ sum_t }} down) {
    {{ map_t }} *row = {{ name }}_next(s);
    {{ sum_t }} right;
    {{ sum_t }} place = s->right{{ further }} + s->slant * {{ "" if int8 else "(float)" }}(2 * s->made - {{ seen - 1 }}) / 2;
    int x = {{ name }}_floor(place, &right);
    {{ sum_t }} next = {{ name }}_mixed(above, below, x, down);
    for (int i = 0; i < {{ seen }}; i++) {
{% if zoomed %}
        x = {{ name }}_floor(place + {{ step_right }} * {{ "" if int8 else "(float)" }}i, &right);
        next = {{ name }}_mixed(above, below, x, down);
{% endif %}
        {{ sum_t }} left = next;
        next = {{ name }}_mixed(above, below, ++x, down);
        row[i] = {{ "(uint8_t)((left * 256 + (next - left) * right + 32768) / 65536)" if int8 else "left * (1.0f - right) + next * right" }};
    }
    s->made++;
    {{ name }}_push(s);
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
    volatile {{ map_t }} *to = {{ name }}_next(s); /* see {{ name }}_start */
    for (int i = 0; i < {{ side }}; i++) to[i] = row[i];
    {{ name }}_push(s);
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
    {{ name }}_border(s);
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
