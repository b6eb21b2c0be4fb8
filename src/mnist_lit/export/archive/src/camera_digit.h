/* SPDX-License-Identifier: MIT
 * camera_digit.h: from a camera's gray picture to the 28x28 pixels that a network of mnist-lit reads.
 * C99 or C++11, whole numbers only; needs no library, and about 1 kB of stack.
 *
 *     uint8_t pixels[784];
 *     if (camera_digit(picture, width, height, pixels) == 0) digit = NAME_predict(&state, pixels, logits);
 *
 * The picture has width x height bytes, rows from the top, 255 for white: one digit in dark ink on
 * paper, and nothing else. The light may be uneven. For light ink, pass 255 minus each byte.
 */
#ifndef CAMERA_DIGIT_H
#define CAMERA_DIGIT_H
#include <stdint.h>

#define CAMERA_SIZE (-1)  /* a side is shorter than 28 pixels, or longer than 1,024 */
#define CAMERA_BLANK (-2) /* no ink, or too little contrast */

#define CAMERA_CELLS 20 /* the paper's lightness is known in cells, at most so many a side */
#define CAMERA_BOX 20   /* the longer side of a laid-out digit */

struct camera_view {
    const uint8_t *picture;
    int width, height, bits, across, down; /* a cell has a side of 1 << bits pixels */
    uint8_t paper[CAMERA_CELLS][CAMERA_CELLS];
};

/* Four times the lightness of a pixel and its three neighbours to the right and below. */
static inline int camera_light(const struct camera_view *v, int x, int y) {
    const uint8_t *p = v->picture + (int32_t)y * v->width + x;
    int right = x + 1 < v->width, below = y + 1 < v->height ? v->width : 0;
    return p[0] + p[right] + p[below] + p[below + right];
}

/* How much darker a pixel is than the paper there, times four. */
static inline int camera_depth(const struct camera_view *v, int x, int y) {
    int side = 1 << v->bits, half = side / 2;
    int left = x > half ? x - half : 0, top = y > half ? y - half : 0;
    int i = left >> v->bits, j = top >> v->bits;
    int right = i + 1 < v->across ? i + 1 : i, below = j + 1 < v->down ? j + 1 : j;
    int fx = left & (side - 1), fy = top & (side - 1);
    int32_t above = v->paper[j][i] * (side - fx) + v->paper[j][right] * fx;
    int32_t under = v->paper[below][i] * (side - fx) + v->paper[below][right] * fx;
    int paper = (int)((4 * (above * (side - fy) + under * fy)) >> (2 * v->bits));
    int depth = paper - camera_light(v, x, y);
    return depth > 0 ? depth : 0;
}

/* Replace the lightness of each cell by the largest (sign 1) or least (-1) of its surroundings. */
static inline void camera_spread(struct camera_view *v, int reach, int sign) {
    uint8_t line[CAMERA_CELLS];
    for (int turn = 0; turn < 2; turn++) {
        int lines = turn ? v->across : v->down, length = turn ? v->down : v->across;
        for (int n = 0; n < lines; n++) {
            for (int i = 0; i < length; i++) line[i] = turn ? v->paper[i][n] : v->paper[n][i];
            for (int i = 0; i < length; i++) {
                int best = line[i];
                for (int k = i - reach; k <= i + reach; k++)
                    if (k >= 0 && k < length && sign * line[k] > sign * best) best = line[k];
                if (turn) v->paper[i][n] = (uint8_t)best;
                else v->paper[n][i] = (uint8_t)best;
            }
        }
    }
}

/* Find the lightness of the paper: that of the lightest pixels around, closed where there is ink. */
static inline void camera_paper(struct camera_view *v) {
    int longer = v->width > v->height ? v->width : v->height;
    for (v->bits = 1; (longer - 1) >> v->bits >= CAMERA_CELLS; v->bits++) {}
    v->across = ((v->width - 1) >> v->bits) + 1;
    v->down = ((v->height - 1) >> v->bits) + 1;
    for (int j = 0; j < v->down; j++)
        for (int i = 0; i < v->across; i++) v->paper[j][i] = 0;
    for (int y = 0; y < v->height; y += 2)
        for (int x = 0; x < v->width; x += 2) {
            int light = camera_light(v, x, y) / 4;
            uint8_t *cell = &v->paper[y >> v->bits][x >> v->bits];
            if (light > *cell) *cell = (uint8_t)light;
        }
    int cells = v->across > v->down ? v->across : v->down;
    camera_spread(v, cells * 3 / 16, 1);
    camera_spread(v, cells * 3 / 16, -1);
}

/* Return the depth that parts paper and ink (Otsu), and the depths of both; 0 for a blank picture. */
static inline int camera_threshold(const struct camera_view *v, int *bare, int *full) {
    uint32_t counts[128], total = 0, sum = 0, below = 0, sum_below = 0;
    uint64_t most = 0;
    int best = 0, low = 0;
    for (int i = 0; i < 128; i++) counts[i] = 0;
    for (int y = 0; y < v->height; y += 2)
        for (int x = 0; x < v->width; x += 2) counts[camera_depth(v, x, y) / 8]++;
    for (int i = 0; i < 128; i++) {
        total += counts[i];
        sum += counts[i] * (uint32_t)i;
    }
    for (int i = 0; i < 127; i++) {
        below += counts[i];
        sum_below += counts[i] * (uint32_t)i;
        if (!below || below == total) continue;
        uint32_t share = below * 1024 / total;
        uint32_t apart = (sum - sum_below) * 16 / (total - below) - sum_below * 16 / below;
        uint64_t between = (uint64_t)(share * (1024 - share)) * (apart * apart);
        if (between > most) {
            most = between;
            best = i + 1;
        }
    }
    below = 0;
    for (int i = 0; i < best; i++) below += counts[i];
    uint32_t seen = 0;
    *bare = *full = -1;
    for (int i = 0; i < 128; i++) {
        seen += counts[i];
        if (10 * seen <= below) low = i + 1;
        if (*bare < 0 && 2 * seen > below) *bare = 8 * i + 4;
        if (*full < 0 && 5 * seen > below + 4 * total) *full = 8 * i + 4;
    }
    int apart = *full - *bare;
    return best && apart >= 56 && apart >= 3 * (*bare - 8 * low) ? *bare + apart / 2 : 0;
}

/* Find the box of the ink, in pixels: its first, and one after its last. Noise and shadows reach the edges. */
static inline int camera_find(const struct camera_view *v, int threshold, int box[4]) {
    int longer = v->width > v->height ? v->width : v->height;
    int least = 1 + longer / 128, before = 0; /* shorter runs are specks */
    box[0] = v->width, box[1] = v->height, box[2] = box[3] = 0;
    for (int y = 0; y < v->height; y++) {
        int first = v->width, last = 0, run = 0;
        for (int x = 0; x <= v->width; x++) {
            if (x < v->width && camera_depth(v, x, y) >= threshold) {
                run++;
                continue;
            }
            if (run >= least) {
                if (x - run < first) first = x - run;
                last = x;
            }
            run = 0;
        }
        if (last && before) {
            if (first < box[0]) box[0] = first;
            if (last > box[2]) box[2] = last;
            if (y - 1 < box[1]) box[1] = y - 1;
            box[3] = y + 1;
        }
        before = last;
    }
    int touched = (box[0] <= 1) + (box[1] <= 1) + (box[2] >= v->width - 1) + (box[3] >= v->height - 2);
    return box[3] > 0 && touched < 3;
}

/* Average the ink of a box into height x width pixels; each source pixel counts by its overlap. */
static inline void camera_reduce(const struct camera_view *v, const int box[4], int bare, int full,
                                 int width, int height, uint8_t small[CAMERA_BOX][CAMERA_BOX]) {
    int32_t wide = box[2] - box[0], high = box[3] - box[1], factor = (int32_t)255 * 256 / (full - bare);
    uint32_t line[CAMERA_BOX], sums[CAMERA_BOX];
    int row = 0;
    for (int i = 0; i < width; i++) sums[i] = 0;
    for (int32_t y = 0; y < high; y++) {
        int column = 0;
        for (int i = 0; i < width; i++) line[i] = 0;
        for (int32_t x = 0; x < wide; x++) {
            int32_t ink = camera_depth(v, (int)(box[0] + x), (int)(box[1] + y)) - bare;
            ink = ink > 0 ? ink * factor >> 8 : 0;
            if (ink > 255) ink = 255;
            if (ink < 32) ink = 0;
            for (int32_t from = x * width, to = from + width; from < to;) {
                int32_t end = (column + 1) * wide, part = (end < to ? end : to) - from;
                line[column] += (uint32_t)(ink * part);
                from += part;
                if (from == end) column++;
            }
        }
        for (int32_t from = y * height, to = from + height; from < to;) {
            int32_t end = (row + 1) * high, part = (end < to ? end : to) - from;
            for (int i = 0; i < width; i++) sums[i] += line[i] * (uint32_t)part;
            from += part;
            if (from < end) continue;
            for (int i = 0; i < width; i++) {
                small[row][i] = (uint8_t)(sums[i] / (uint32_t)(wide * high));
                sums[i] = 0;
            }
            row++;
        }
    }
}

/* Lay out the digit of a picture; return 0, CAMERA_SIZE or CAMERA_BLANK. */
static inline int camera_digit(const uint8_t *picture, int width, int height, uint8_t pixels[784]) {
    struct camera_view v;
    uint8_t small[CAMERA_BOX][CAMERA_BOX];
    int box[4], bare, full, side = CAMERA_BOX, most = 1;
    int32_t mass, right, down, edges, spread = 0; /* of 256, how much ink a pixel gives its neighbours */
    if (width < 28 || height < 28 || width > 1024 || height > 1024) return CAMERA_SIZE;
    v.picture = picture, v.width = width, v.height = height;
    camera_paper(&v);
    int threshold = camera_threshold(&v, &bare, &full);
    if (!threshold || !camera_find(&v, threshold, box)) return CAMERA_BLANK;
    int32_t wide = box[2] - box[0], high = box[3] - box[1], longer = wide > high ? wide : high;
    if (longer < 8) return CAMERA_BLANK;
    for (;;) {
        width = (int)((2 * side * wide + longer) / (2 * longer));
        height = (int)((2 * side * high + longer) / (2 * longer));
        if (!width) width = 1;
        if (!height) height = 1;
        camera_reduce(&v, box, bare, full, width, height, small);
        mass = right = down = edges = 0;
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++) {
                int ink = small[y][x], across = ink - (x ? small[y][x - 1] : 0);
                int along = ink - (y ? small[y - 1][x] : 0);
                if (ink > most) most = ink;
                mass += ink;
                right += ink * (2 * x + 1);
                down += ink * (2 * y + 1);
                edges += (across > 0 ? across : -across) + (along > 0 ? along : -along);
                edges += (x + 1 == width ? ink : 0) + (y + 1 == height ? ink : 0);
            }
        if (!mass) return CAMERA_BLANK;
        /* A stroke is about 2.4 * mass / edges pixels wide; MNIST's are hardly thinner than 1.5. */
        if (spread || 24 * mass >= 15 * edges) break;
        spread = 240 * (edges - mass) / (edges * 25 / 64 + 1);
        if (spread > 256) spread = 256;
        side -= 2;
    }
    int left = (int)(14 - (right + mass) / (2 * mass)), top = (int)(14 - (down + mass) / (2 * mass));
    left = left < 1 ? 1 : left > 27 - width ? 27 - width : left;
    top = top < 1 ? 1 : top > 27 - height ? 27 - height : top;
    for (int i = 0; i < 784; i++) pixels[i] = 0;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int32_t ink = (int32_t)small[y][x] * 255 / most, around = ink * spread / 256;
            uint8_t *p = pixels + 28 * (top + y) + left + x;
            if (ink > *p) *p = (uint8_t)ink;
            if (around > p[1]) p[1] = (uint8_t)around;
            if (around > p[-1]) p[-1] = (uint8_t)around;
            if (around > p[28]) p[28] = (uint8_t)around;
            if (around > p[-28]) p[-28] = (uint8_t)around;
        }
    return 0;
}
#endif
