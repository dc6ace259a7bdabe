#include "fuzz/seeds.h"
void seeds_talk(void) {}
