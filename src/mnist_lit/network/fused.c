/* Max-pool, batch norm and ReLU of a channels-last map of C channels, forward and backward in two
 * passes over memory each; and a convolution from one channel to C with its max-pool. The file
 * includes itself once for each element type T. K is an unsigned integer of the same width, so that
 * loops over both fill whole vectors. */

#ifndef T
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Two sums per column from each thread -> two sums per channel. Each thread has its own memory for
 * its sums: threads that share a cache line would wait for each other at every row. */
static void gather(const float *columns, int threads, int width, double *total) {
    for (int i = 0; i < 2 * C; i++) total[i] = 0;
    for (int i = 0; i < threads * 2 * width; i++)
        total[i / width % 2 * C + i % width % C] += columns[i];
}

/* Values per vector. */
#define LANES 16
typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t wholes __attribute__((vector_size(LANES * 4)));

static inline lanes choose(wholes mask, lanes a, lanes b) {
    return (lanes)((mask & (wholes)a) | (~mask & (wholes)b));
}

/* [h, w] -> [h + 2m, w + 2m] with a margin of m zeros. */
static void frame(const float *image, float *framed, int h, int w, int m) {
    memset(framed, 0, (size_t)(h + 2 * m) * (w + 2 * m) * sizeof(float));
    for (int i = 0; i < h; i++)
        memcpy(framed + (size_t)(i + m) * (w + 2 * m) + m, image + (size_t)i * w, w * sizeof(float));
}

#define T uint16_t
#define K uint16_t
#define LOAD from_bf16
#define STORE to_bf16
#define NAME(f) f##_bf16
#include "fused.c"
#undef T
#undef K
#undef LOAD
#undef STORE
#undef NAME
#define T float
#define K uint32_t
#define LOAD(x) (x)
#define STORE(x) (x)
#define NAME(f) f##_f32
#include "fused.c"
#else

/* Two rows a and b of a map, [w, C] each -> their pooled row p [w/2, C] and k, the position (0 to 3)
 * of each maximum in its window. high and row are scratch memory for [w, C] each. */
static inline void NAME(pool_rows)(const T *restrict a, const T *restrict b, T *restrict p,
                                   K *restrict k, float *high, float *row, int w) {
    int W = w / 2;
    for (int i = 0; i < 2 * W * C; i++) {
        float u = LOAD(a[i]), v = LOAD(b[i]);
        high[i] = v > u ? v : u;
        row[i] = v > u ? 2 : 0;
    }
    for (int j = 0; j < W; j++) {
        const float *l = high + (size_t)2 * j * C, *m = l + C;
        const float *kl = row + (size_t)2 * j * C, *km = kl + C;
        for (int i = 0; i < C; i++) {
            /* Of equal values the first in row-major order, as in torch. */
            int right = m[i] > l[i] || (m[i] == l[i] && km[i] < kl[i]);
            float v = right ? m[i] : l[i];
            float at = right ? km[i] + 1 : kl[i];
            p[j * C + i] = STORE(v);
            k[j * C + i] = (K)(int32_t)at;
        }
    }
}

/* The gradient d [w/2, C] of a pooled row -> the gradients a and b [w, C] of its two rows. */
static inline void NAME(unpool_row)(const T *restrict d, const K *restrict k, T *restrict a,
                                    T *restrict b, int w) {
    int W = w / 2;
    for (int j = 0; j < W; j++)
        for (int i = 0; i < C; i++) {
            T v = d[j * C + i];
            K at = k[j * C + i];
            a[2 * j * C + i] = at == 0 ? v : 0;
            a[(2 * j + 1) * C + i] = at == 1 ? v : 0;
            b[2 * j * C + i] = at == 2 ? v : 0;
            b[(2 * j + 1) * C + i] = at == 3 ? v : 0;
        }
    if (w % 2) { /* the last column is in no window */
        memset(a + 2 * W * C, 0, C * sizeof(T));
        memset(b + 2 * W * C, 0, C * sizeof(T));
    }
}

/* x [n, h, w, C] -> y. If pool, the batch norm's input is pooled [n, h/2, w/2, C], and which is the
 * position of each maximum in its window; else it is x. kept [4, C] stores four values per channel
 * for the backward: scale and shift (y = relu(scale * input + shift)), mean and 1 / deviation. */
void NAME(forward)(const T *restrict x, T *restrict pooled, K *restrict which, T *restrict y,
                   const float *weight, const float *bias, float *running_mean, float *running_var,
                   float momentum, float eps, float *kept, int n, int h, int w, int pool) {
    int H = pool ? h / 2 : h, W = pool ? w / 2 : w, width = W * C, threads = omp_get_max_threads();
    size_t bytes = (size_t)width * 2 * sizeof(float);
    float *sums = calloc(threads, bytes);
    float *table = malloc((size_t)width * 2 * sizeof(float));
    const T *in = pool ? pooled : x;
#pragma omp parallel num_threads(threads)
    {
        float *s = calloc(1, bytes), *q = s + width;
        float *high = malloc((size_t)w * C * sizeof(float));
        float *row = malloc((size_t)w * C * sizeof(float));
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            if (pool) {
                const T *a = x + ((size_t)(r / H) * h + 2 * (r % H)) * w * C, *b = a + (size_t)w * C;
                size_t at = (size_t)r * width;
                NAME(pool_rows)(a, b, pooled + at, which + at, high, row, w);
            }
            const T *p = in + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float v = LOAD(p[i]);
                s[i] += v;
                q[i] += v * v;
            }
        }
        memcpy(sums + (size_t)omp_get_thread_num() * 2 * width, s, bytes);
        free(s);
        free(high);
        free(row);
    }
    double count = (double)n * H * W, *total = malloc(2 * C * sizeof(double));
    gather(sums, threads, width, total);
    float *scale = kept, *shift = kept + C, *mean = kept + 2 * C, *inv = kept + 3 * C;
    for (int k = 0; k < C; k++) {
        double m = total[k] / count, v = total[C + k] / count - m * m;
        v = v < 0 ? 0 : v;
        mean[k] = m, inv[k] = 1 / sqrt(v + eps);
        scale[k] = weight[k] * inv[k], shift[k] = bias[k] - m * scale[k];
        running_mean[k] += momentum * (m - running_mean[k]);
        running_var[k] += momentum * (v * count / (count > 1 ? count - 1 : 1) - running_var[k]);
    }
    for (int i = 0; i < width; i++) table[i] = scale[i % C], table[width + i] = shift[i % C];
    free(total);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int r = 0; r < n * H; r++) {
        const T *p = in + (size_t)r * width;
        T *o = y + (size_t)r * width;
        for (int i = 0; i < width; i++) {
            float v = LOAD(p[i]) * table[i] + table[width + i];
            o[i] = STORE(v < 0 ? 0 : v); /* NaN stays NaN */
        }
    }
    free(sums);
    free(table);
}

/* dy -> dx, dweight, dbias; in is the batch norm's input: pooled if pool, else x. */
void NAME(backward)(const T *restrict dy, const T *restrict in, const K *restrict which,
                    T *restrict dx, const float *kept, float *dweight, float *dbias, int n, int h,
                    int w, int pool) {
    int H = pool ? h / 2 : h, W = pool ? w / 2 : w, width = W * C, threads = omp_get_max_threads();
    size_t bytes = (size_t)width * 2 * sizeof(float);
    float *sums = calloc(threads, bytes);
    float *scale = malloc((size_t)width * 4 * sizeof(float)), *shift = scale + width;
    float *slope = shift + width, *offset = slope + width;
    for (int i = 0; i < width; i++) scale[i] = kept[i % C], shift[i] = kept[C + i % C];
#pragma omp parallel num_threads(threads)
    {
        float *s = calloc(1, bytes), *q = s + width;
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            const T *g = dy + (size_t)r * width, *p = in + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float x = LOAD(p[i]), v = x * scale[i] + shift[i] > 0 ? LOAD(g[i]) : 0;
                s[i] += v;
                q[i] += v * x;
            }
        }
        memcpy(sums + (size_t)omp_get_thread_num() * 2 * width, s, bytes);
        free(s);
    }
    double count = (double)n * H * W, *total = malloc(2 * C * sizeof(double));
    gather(sums, threads, width, total);
    const float *mean = kept + 2 * C, *inv = kept + 3 * C;
    for (int i = 0; i < width; i++) {
        int k = i % C;
        dbias[k] = total[k];
        dweight[k] = (total[C + k] - mean[k] * total[k]) * inv[k];
        slope[i] = -scale[k] * inv[k] * dweight[k] / count;
        offset[i] = -scale[k] * dbias[k] / count - slope[i] * mean[k];
    }
    free(total);
#pragma omp parallel num_threads(threads)
    {
        T *d = malloc((size_t)width * sizeof(T));
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            const T *g = dy + (size_t)r * width, *p = in + (size_t)r * width;
            T *to = pool ? d : dx + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float x = LOAD(p[i]), v = x * scale[i] + shift[i] > 0 ? LOAD(g[i]) : 0;
                to[i] = STORE(v * scale[i] + x * slope[i] + offset[i]);
            }
            if (!pool) continue;
            T *a = dx + ((size_t)(r / H) * h + 2 * (r % H)) * w * C, *b = a + (size_t)w * C;
            NAME(unpool_row)(d, which + (size_t)r * width, a, b, w);
            /* The last row is in no window. */
            if (h % 2 && r % H == H - 1) memset(b + (size_t)w * C, 0, (size_t)w * C * sizeof(T));
        }
        free(d);
    }
    free(sums);
    free(scale);
}

/* images [n, h, w], weight [C, size, size] -> pooled [n, h/2, w/2, C] and which, as above. */
void NAME(conv_pool_forward)(const float *images, const float *weight, T *pooled, K *which, int n,
                             int h, int w, int size) {
    int margin = size / 2, wide = w + 2 * margin, taps = size * size;
    int H = h / 2, W = w / 2, width = W * C, groups = (C + LANES - 1) / LANES;
    lanes *filters = aligned_alloc(sizeof(lanes), groups * taps * sizeof(lanes));
    for (int i = 0; i < groups * LANES; i++)
        for (int t = 0; t < taps; t++)
            filters[i / LANES * taps + t][i % LANES] = i < C ? weight[i * taps + t] : 0;
#pragma omp parallel
    {
        float *x = malloc((size_t)(h + 2 * margin) * wide * sizeof(float));
        float *row = malloc((width + LANES) * sizeof(float));
        int32_t *where = malloc((width + LANES) * sizeof(int32_t));
#pragma omp for schedule(static)
        for (int image = 0; image < n; image++) {
            frame(images + (size_t)image * h * w, x, h, w, margin);
            for (int i = 0; i < H; i++) {
                for (int j = 0; j < W; j++)
                    for (int g = 0; g < groups; g++) {
                        const lanes *f = filters + g * taps;
                        const float *a = x + (size_t)2 * i * wide + 2 * j;
                        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
                        for (int u = 0; u < size; u++, a += wide)
                            for (int v = 0; v < size; v++, f++) {
                                s0 += *f * a[v];
                                s1 += *f * a[v + 1];
                                s2 += *f * a[v + wide];
                                s3 += *f * a[v + wide + 1];
                            }
                        wholes right = s1 > s0, below_right = s3 > s2;
                        lanes above = choose(right, s1, s0), below = choose(below_right, s3, s2);
                        wholes lower = below > above;
                        lanes best = choose(lower, below, above);
                        wholes at = (lower & (2 - below_right)) | (~lower & -right);
                        /* The next pixel overwrites the lanes beyond C. */
                        memcpy(row + j * C + g * LANES, &best, sizeof best);
                        memcpy(where + j * C + g * LANES, &at, sizeof at);
                    }
                size_t start = ((size_t)image * H + i) * width;
                for (int c = 0; c < width; c++) pooled[start + c] = STORE(row[c]);
                for (int c = 0; c < width; c++) which[start + c] = where[c];
            }
        }
        free(x);
        free(row);
        free(where);
    }
    free(filters);
}

/* Gradient of pooled [n, h/2, w/2, C], images, which -> dweight [C, size, size]. */
void NAME(conv_pool_backward)(const T *gradient, const float *images, const K *which,
                              float *dweight, int n, int h, int w, int size) {
    int margin = size / 2, wide = w + 2 * margin, taps = size * size;
    int H = h / 2, W = w / 2, width = W * C;
    int groups = (C + LANES - 1) / LANES, threads = omp_get_max_threads();
    size_t bytes = groups * taps * sizeof(lanes);
    lanes *sums = aligned_alloc(sizeof(lanes), threads * bytes);
    memset(sums, 0, threads * bytes);
#pragma omp parallel num_threads(threads)
    {
        lanes *sum = aligned_alloc(sizeof(lanes), bytes);
        memset(sum, 0, bytes);
        float *x = malloc((size_t)(h + 2 * margin) * wide * sizeof(float));
        float *row = calloc(width + LANES, sizeof(float));
        int32_t *where = calloc(width + LANES, sizeof(int32_t));
#pragma omp for schedule(static)
        for (int image = 0; image < n; image++) {
            frame(images + (size_t)image * h * w, x, h, w, margin);
            for (int i = 0; i < H; i++) {
                size_t start = ((size_t)image * H + i) * width;
                for (int c = 0; c < width; c++) row[c] = LOAD(gradient[start + c]);
                for (int c = 0; c < width; c++) where[c] = which[start + c];
                for (int j = 0; j < W; j++)
                    for (int g = 0; g < groups; g++) {
                        const float *a = x + (size_t)2 * i * wide + 2 * j;
                        /* Lanes beyond C go into unused sums. */
                        lanes s, none = {0};
                        wholes at;
                        memcpy(&s, row + j * C + g * LANES, sizeof s);
                        memcpy(&at, where + j * C + g * LANES, sizeof at);
                        lanes d0 = choose(at == 0, s, none), d1 = choose(at == 1, s, none);
                        lanes d2 = choose(at == 2, s, none), d3 = choose(at == 3, s, none);
                        lanes *to = sum + g * taps;
                        for (int u = 0; u < size; u++, a += wide)
                            for (int v = 0; v < size; v++, to++)
                                *to += d0 * a[v] + d1 * a[v + 1] + d2 * a[v + wide] +
                                       d3 * a[v + wide + 1];
                    }
            }
        }
        memcpy(sums + omp_get_thread_num() * groups * taps, sum, bytes);
        free(sum);
        free(x);
        free(row);
        free(where);
    }
    for (int c = 0; c < C; c++)
        for (int t = 0; t < taps; t++) {
            double total = 0;
            for (int thread = 0; thread < threads; thread++)
                total += sums[(thread * groups + c / LANES) * taps + t][c % LANES];
            dweight[c * taps + t] = total;
        }
    free(sums);
}
#endif
