/* Reads images from standard input. Writes the digit of each, as a byte, and its logits, lowest byte first. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include NETWORK
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static struct JOIN(NAME, _state) state;

int main(void) {
    static uint8_t pixels[SIZE];
    LOGIT logits[10] = {0};
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
        putchar(JOIN(NAME, _predict)(&state, pixels, logits));
        for (int k = 0; k < 10; k++) {
            uint32_t bits;
            memcpy(&bits, &logits[k], sizeof bits);
            for (int n = 0; n < 32; n += 8) putchar((int)(bits >> n & 255));
        }
    }
    return 0;
}
