/* RISC-V on QEMU's virt machine without a library: the start, its serial line, the count of instructions. */
#include <stdint.h>
extern uint32_t _bss, _bss_end;
int main(void);
static uint32_t from;
static uint32_t count(void) {
    uint32_t value;
    __asm__ volatile(".option arch, +zicsr\n csrr %0, minstret" : "=r"(value));
    return value;
}
void say(const char *text) {
    while (*text) *(volatile uint8_t *)0x10000000 = (uint8_t)*text++;
}
void begin(void) { from = count(); }
uint32_t passed(void) { return count() - from; }
__attribute__((used)) void enter(void) {
    for (uint32_t *to = &_bss; to < &_bss_end; to++) *to = 0;
    main();
    *(volatile uint32_t *)0x100000 = 0x5555; /* the end */
    for (;;) {}
}
__attribute__((naked, section(".first"))) void reset(void) { __asm__("la sp, _stack; j enter"); }
