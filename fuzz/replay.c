/* The main of a fuzz target in builds without libFuzzer: feeds it every file of the directories (or files) named, then
 * an empty input. usage: fuzz_TARGET DIR|FILE... */
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz/fuzz.h"

static size_t inputs, bytes;

static int replay_file(const char *path) {
  FILE *f = fopen(path, "rb");
  struct stat st;
  if (!f || fstat(fileno(f), &st)) {
    perror(path);
    if (f) fclose(f);
    return 1;
  }
  size_t n = (size_t)st.st_size;
  uint8_t *data = malloc(n ? n : 1); /* exactly as large: ASan sees a step too far */
  bool whole = data && fread(data, 1, n, f) == n;
  fclose(f);
  if (whole) {
    if (getenv("FUZZ_VERBOSE")) fprintf(stderr, "%s\n", path); /* which input was it that crashed? */
    LLVMFuzzerTestOneInput(data, n);
    inputs++;
    bytes += n;
  } else {
    perror(path);
  }
  free(data);
  return whole ? 0 : 1;
}

static int replay(const char *path) {
  struct dirent **names;
  struct stat st;
  if (stat(path, &st)) return 0; /* a target that has no corpus yet */
  if (!S_ISDIR(st.st_mode)) return replay_file(path);
  int n = scandir(path, &names, NULL, alphasort), bad = 0;
  for (int i = 0; i < n; i++) {
    char child[4096];
    snprintf(child, sizeof child, "%s/%s", path, names[i]->d_name);
    if (names[i]->d_name[0] != '.') bad |= replay_file(child);
    free(names[i]);
  }
  if (n >= 0) free(names);
  return bad | (n < 0);
}

int main(int argc, char **argv) {
  int bad = 0;
  for (int i = 1; i < argc; i++) bad |= replay(argv[i]);
  LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
  printf("%zu inputs, %zu bytes\n", inputs, bytes);
  if (inputs == 0) fprintf(stderr, "no input was found\n");
  return bad || inputs == 0;
}
