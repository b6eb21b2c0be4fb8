{% set name, side, align = source.name, source.facts.side, source.compact.description.align %}
{% set NAME = name|upper %}
// Reads a picture from flash, row by row, and says on the serial line what it shows.
// #define {{ NAME }}_SELFTEST  // checks the arithmetic first, with {{ digits }} pictures of {{ side * side }} bytes of flash each
#include <{{ name }}.h>

const uint8_t picture[{{ side }}][{{ side }}] PROGMEM = {
{% for row in picture.tolist() %}
  {% raw %}{{% endraw %}{% for pixel in row %}{{ "%3d" % pixel }}{{ ", " if not loop.last }}{% endfor %}},
{% endfor %}
};

{{ name }}_state state;

void take(int (*give)({{ name }}_state *, const uint8_t *)) {
  uint8_t row[{{ side }}];
  for (uint8_t y = 0; y < {{ side }}; y++) {
    memcpy_P(row, picture[y], {{ side }});
    give(&state, row);
  }
}

void setup() {
  Serial.begin(115200);
#ifdef {{ NAME }}_SELFTEST
  Serial.println({{ name }}_selftest(&state) ? F("Self-test: wrong") : F("Self-test: right"));
#endif
}

void loop() {
  unsigned long began = millis();
  {{ name }}_start(&state);
{% if align %}
  take({{ name }}_look); // how the picture leans
{% endif %}
  take({{ name }}_row);
  int answer = {{ name }}_finish(&state, 0);
  unsigned long ended = millis();
  Serial.print(F("This is a "));
  Serial.print(answer);
  Serial.print(F(", read in ms: "));
  Serial.println(ended - began);
  delay(2000);
}
