/* Max-pool, batch norm and ReLU of a channels-last map of C channels, forward and backward, each in
 * two passes over memory. The file includes itself once for each element type T; K is an unsigned
 * integer as wide, so that loops over both fill whole vectors. */

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

/* Sums of each column of every thread -> sums of each channel. */
static void gather(const float *columns, int threads, int width, double *total) {
    for (int i = 0; i < C; i++) total[i] = 0;
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < width; i++) total[i % C] += columns[(size_t)t * width + i];
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

/* x [n, h, w, C] -> y, through pooled [n, h/2, w/2, C] if pool; which says where in its window each
 * maximum was. mean and var [C] are of what is normalised, var biased. */
void NAME(forward)(const T *restrict x, T *restrict pooled, K *restrict which,
                   T *restrict y, const float *weight, const float *bias, float eps, float *mean,
                   float *var, int n, int h, int w, int pool) {
    int H = pool ? h / 2 : h, W = pool ? w / 2 : w, width = W * C, threads = omp_get_max_threads();
    float *sums = calloc((size_t)threads * width * 2, sizeof(float));
    float *table = malloc((size_t)width * 2 * sizeof(float));
    float *squares = sums + (size_t)threads * width;
    const T *in = pool ? pooled : x;
#pragma omp parallel num_threads(threads)
    {
        float *s = sums + (size_t)omp_get_thread_num() * width;
        float *q = squares + (size_t)omp_get_thread_num() * width;
        float *high = malloc((size_t)w * C * sizeof(float));
        float *row = malloc((size_t)w * C * sizeof(float));
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            if (pool) {
                const T *a = x + ((size_t)(r / H) * h + 2 * (r % H)) * w * C, *b = a + (size_t)w * C;
                T *p = pooled + (size_t)r * width;
                K *k = which + (size_t)r * width;
                for (int i = 0; i < 2 * width; i++) {
                    float u = LOAD(a[i]), v = LOAD(b[i]);
                    high[i] = v > u ? v : u;
                    row[i] = v > u ? 2 : 0;
                }
                for (int j = 0; j < W; j++) {
                    const float *l = high + (size_t)2 * j * C, *m = l + C;
                    const float *kl = row + (size_t)2 * j * C, *km = kl + C;
                    for (int i = 0; i < C; i++) {
                        /* Among equals the first in reading order, as torch has it. */
                        int right = m[i] > l[i] || (m[i] == l[i] && km[i] < kl[i]);
                        float v = right ? m[i] : l[i];
                        float at = right ? km[i] + 1 : kl[i];
                        p[j * C + i] = STORE(v);
                        k[j * C + i] = (K)(int32_t)at;
                    }
                }
            }
            const T *p = in + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float v = LOAD(p[i]);
                s[i] += v;
                q[i] += v * v;
            }
        }
        free(high);
        free(row);
    }
    double count = (double)n * H * W, *total = malloc(2 * C * sizeof(double));
    gather(sums, threads, width, total);
    gather(squares, threads, width, total + C);
    for (int i = 0; i < width; i++) {
        int k = i % C;
        double m = total[k] / count, v = total[C + k] / count - m * m;
        mean[k] = m, var[k] = v > 0 ? v : 0;
        table[i] = weight[k] / sqrt(var[k] + eps);
        table[width + i] = bias[k] - m * table[i];
    }
    free(total);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int r = 0; r < n * H; r++) {
        const T *p = in + (size_t)r * width;
        T *o = y + (size_t)r * width;
        for (int i = 0; i < width; i++) {
            float v = LOAD(p[i]) * table[i] + table[width + i];
            o[i] = STORE(v < 0 ? 0 : v); /* not a number stays what it is */
        }
    }
    free(sums);
    free(table);
}

/* dy -> dx, dweight, dbias; in is what was normalised: pooled if pool, else x. */
void NAME(backward)(const T *restrict dy, const T *restrict y, const T *restrict in,
                    const K *restrict which, T *restrict dx, const float *weight,
                    const float *mean, const float *var, float eps, float *dweight, float *dbias,
                    int n, int h, int w, int pool) {
    int H = pool ? h / 2 : h, W = pool ? w / 2 : w, width = W * C, threads = omp_get_max_threads();
    float *sums = calloc((size_t)threads * width * 2, sizeof(float));
    float *table = malloc((size_t)width * 3 * sizeof(float));
    float *products = sums + (size_t)threads * width;
#pragma omp parallel num_threads(threads)
    {
        float *s = sums + (size_t)omp_get_thread_num() * width;
        float *q = products + (size_t)omp_get_thread_num() * width;
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            const T *g = dy + (size_t)r * width, *o = y + (size_t)r * width;
            const T *p = in + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float v = LOAD(o[i]) > 0 ? LOAD(g[i]) : 0;
                s[i] += v;
                q[i] += v * LOAD(p[i]);
            }
        }
    }
    double count = (double)n * H * W, *total = malloc(2 * C * sizeof(double));
    gather(sums, threads, width, total);
    gather(products, threads, width, total + C);
    for (int i = 0; i < width; i++) {
        int k = i % C;
        double inv = 1 / sqrt(var[k] + eps), a = weight[k] * inv;
        dbias[k] = total[k];
        dweight[k] = (total[C + k] - mean[k] * total[k]) * inv;
        double slope = -a * inv * dweight[k] / count;
        table[i] = a, table[width + i] = slope;
        table[2 * width + i] = -a * dbias[k] / count - slope * mean[k];
    }
    free(total);
#pragma omp parallel num_threads(threads)
    {
        T *d = malloc((size_t)width * sizeof(T));
#pragma omp for schedule(static)
        for (int r = 0; r < n * H; r++) {
            const T *g = dy + (size_t)r * width, *o = y + (size_t)r * width;
            const T *p = in + (size_t)r * width;
            T *to = pool ? d : dx + (size_t)r * width;
            for (int i = 0; i < width; i++) {
                float v = LOAD(o[i]) > 0 ? LOAD(g[i]) : 0;
                to[i] = STORE(v * table[i] + LOAD(p[i]) * table[width + i] + table[2 * width + i]);
            }
            if (!pool) continue;
            const K *k = which + (size_t)r * width;
            T *a = dx + ((size_t)(r / H) * h + 2 * (r % H)) * w * C, *b = a + (size_t)w * C;
            for (int j = 0; j < W; j++)
                for (int i = 0; i < C; i++) {
                    T v = d[j * C + i];
                    K at = k[j * C + i];
                    a[2 * j * C + i] = at == 0 ? v : 0;
                    a[(2 * j + 1) * C + i] = at == 1 ? v : 0;
                    b[2 * j * C + i] = at == 2 ? v : 0;
                    b[(2 * j + 1) * C + i] = at == 3 ? v : 0;
                }
            if (w % 2) { /* the last column and row are in no window */
                memset(a + 2 * width, 0, C * sizeof(T));
                memset(b + 2 * width, 0, C * sizeof(T));
            }
            if (h % 2 && r % H == H - 1) memset(b + (size_t)w * C, 0, (size_t)w * C * sizeof(T));
        }
        free(d);
    }
    free(sums);
    free(table);
}
#endif
