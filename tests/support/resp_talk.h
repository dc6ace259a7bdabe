/* A Redis client for tests that knows nothing of the protocol: bytes out, bytes in, compared with what is expected. */
#ifndef DW_TESTS_RESP_TALK_H
#define DW_TESTS_RESP_TALK_H

#include <stddef.h>
#include <stdint.h>

/* A connection to loopback; every wait has a deadline that fails the test. Close it with close(). */
int talk_connect(uint16_t port);
void talk_send(int fd, const char *text); /* may contain no zero byte */
void talk_send_n(int fd, const void *data, size_t n);
/* The next bytes must be these. */
void talk_expect(int fd, const char *text);
/* talk_send and talk_expect. */
void talk(int fd, const char *text, const char *answer);
/* The next reply of any kind, whole, as text in out; fails if it does not fit. Returns its length. */
size_t talk_reply(int fd, char *out, size_t cap);
/* talk_send, and talk_reply as a number (":5", "$1 5"); fails if it is none. */
long long talk_int(int fd, const char *text);
/* The peer closes now, without another byte. */
void talk_expect_end(int fd);

#endif
