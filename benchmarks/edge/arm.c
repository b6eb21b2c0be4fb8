/* A Cortex-M without a library: vectors, the start, semihosting, SysTick. */
#include <stdint.h>
extern uint32_t _stack, _data, _data_end, _data_from, _bss, _bss_end;
int main(void);

static void call(int what, const void *with) {
    register int r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
void say(const char *text) { call(4, text); }
void begin(void) {
    *(volatile uint32_t *)0xE000E014 = 0xFFFFFF;
    *(volatile uint32_t *)0xE000E018 = 0;
    *(volatile uint32_t *)0xE000E010 = 5;
}
uint32_t passed(void) { return 0xFFFFFF - *(volatile uint32_t *)0xE000E018; }
void reset(void) {
    uint32_t *from = &_data_from, *to = &_data;
    while (to < &_data_end) *to++ = *from++;
    for (to = &_bss; to < &_bss_end; to++) *to = 0;
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* the FPU on */
    __asm__ volatile("dsb; isb");
#endif
    main();
    call(0x18, (const void *)0x20026);
    for (;;) {}
}
__attribute__((section(".vectors"), used)) const void *const vectors[] = {&_stack, (const void *)reset};
