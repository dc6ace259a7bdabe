#include "tests/support/ports.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int test_pick_port(void) {
  static unsigned seed;
  if (!seed) seed = (unsigned)getpid() * 2654435761u + (unsigned)time(NULL);
  for (;;) {
    int port = 12000 + rand_r(&seed) % 20000, one = 1;
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool free_now = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    if (free_now) return port;
  }
}
