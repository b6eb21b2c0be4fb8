/* Functions that compilers call implicitly. */
#include <stddef.h>
void *memset(void *to, int value, size_t count) {
    unsigned char *p = to;
    while (count--) *p++ = (unsigned char)value;
    return to;
}
void *memcpy(void *to, const void *from, size_t count) {
    unsigned char *p = to;
    const unsigned char *q = from;
    while (count--) *p++ = *q++;
    return to;
}
