/* Reads DIGITS and prints for each the answer, the ticks and the logits, then the bytes of stack, in hexadecimal. */
#include <stdint.h>
#include NETWORK
#ifdef DIGITS
#include DIGITS /* static const uint8_t pixels[COUNT][…] */
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define STATE JOIN(NAME, _state)
#define PREDICT JOIN(NAME, _predict)

void begin(void);          /* start the clock */
uint32_t passed(void);     /* its ticks since then */
void say(const char *text);

#ifdef DIGITS
static void number(uint32_t value) {
    char text[10];
    for (int i = 0; i < 8; i++) text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    text[8] = ' ';
    text[9] = 0;
    say(text);
}
/* The stack below main: filled before a call, and read after it. */
#define DEPTH 4096
static volatile uint32_t *below(void) { return (uint32_t *)__builtin_frame_address(0) - 32; }
static void fill(void) {
    volatile uint32_t *p = below();
    for (int i = 0; i < DEPTH; i++) *--p = 0xA5A5A5A5;
}
static uint32_t deepest(void) {
    volatile uint32_t *p = below() - DEPTH;
    uint32_t left = 0;
    while (left < DEPTH && *p++ == 0xA5A5A5A5) left++;
    return 4 * (DEPTH + 32 - left);
}
#endif

#ifndef NOTHING
static struct STATE state;
#endif
const uint8_t *volatile somewhere;

int main(void) {
#ifdef DIGITS
    static int32_t logits[10];
    uint32_t stack = 0;
    for (int i = 0; i < COUNT; i++) {
        fill();
        begin();
        int digit = PREDICT(&state, pixels[i], logits);
        uint32_t ticks = passed(), deep = deepest();
        if (deep > stack) stack = deep;
        number((uint32_t)digit);
        number(ticks);
        for (int d = 0; d < 10; d++) number((uint32_t)logits[d]);
        say("\n");
    }
    number(stack);
    say("\n");
#elif !defined(NOTHING)
    return PREDICT(&state, somewhere, 0);
#endif
    return 0;
}
