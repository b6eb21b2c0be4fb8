/* Reads images from standard input and writes the digit of each, as a byte. */
#include <stdint.h>
#include <stdio.h>
#include NETWORK
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static struct JOIN(NAME, _state) state;

int main(void) {
    static uint8_t pixels[SIZE];
    LOGIT logits[10];
    while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels)
        putchar(JOIN(NAME, _predict)(&state, pixels, logits));
    return 0;
}
