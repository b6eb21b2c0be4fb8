/* Reads DIGITS and prints for each the answer, the ticks and the logits, in hexadecimal. */
#include <stdint.h>
#include NETWORK
#ifdef DIGITS
#include DIGITS /* static const uint8_t pixels[COUNT][784] */
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
#endif

#ifndef NOTHING
static struct STATE state;
#endif
const uint8_t *volatile somewhere;

int main(void) {
#ifdef DIGITS
    static int32_t logits[10];
    for (int i = 0; i < COUNT; i++) {
        begin();
        int digit = PREDICT(&state, pixels[i], logits);
        uint32_t ticks = passed();
        number((uint32_t)digit);
        number(ticks);
        for (int d = 0; d < 10; d++) number((uint32_t)logits[d]);
        say("\n");
    }
#elif !defined(NOTHING)
    return PREDICT(&state, somewhere, 0);
#endif
    return 0;
}
