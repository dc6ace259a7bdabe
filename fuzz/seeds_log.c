#include "fuzz/seeds.h"
void seeds_log(void) {}
