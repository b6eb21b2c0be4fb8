/* An Arduino Uno: digits from flash, row by row; answers go to its serial line, ticks are 1,024 cycles. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>
#include NETWORK
#define pixels_in PROGMEM
#include DIGITS
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static struct JOIN(NAME, _state) state;
static int32_t logits[10];

static void put(char c) {
    while (!(UCSR0A & (1 << UDRE0))) {}
    UDR0 = (uint8_t)c;
}
static void number(uint32_t value) {
    for (int8_t i = 28; i >= 0; i = (int8_t)(i - 4)) {
        uint8_t digit = (uint8_t)(value >> i & 15);
        put((char)(digit < 10 ? '0' + digit : 'a' + digit - 10));
    }
    put(' ');
}
extern uint8_t _end;

int main(void) {
    UBRR0 = 0;
    UCSR0B = 1 << TXEN0;
    TCCR1B = 5;
    for (uint8_t *p = &_end; p < (uint8_t *)(SP - 16); p++) *p = 0xA5;
    for (uint8_t i = 0; i < COUNT; i++) {
        uint8_t row[28];
        TCNT1 = 0;
        JOIN(NAME, _start)(&state);
        for (uint8_t y = 0; y < 28; y++) {
            memcpy_P(row, pixels[i] + 28 * y, 28);
            JOIN(NAME, _look)(&state, row);
        }
        for (uint8_t y = 0; y < 28; y++) {
            memcpy_P(row, pixels[i] + 28 * y, 28);
            JOIN(NAME, _row)(&state, row);
        }
        int digit = JOIN(NAME, _finish)(&state, logits);
        uint16_t ticks = TCNT1;
        number((uint32_t)digit);
        number(ticks);
        for (uint8_t d = 0; d < 10; d++) number((uint32_t)logits[d]);
        put('\n');
    }
    uint16_t unused = 0;
    for (const uint8_t *p = &_end; *p == 0xA5; p++) unused++;
    number(unused);
    put('\n');
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}
