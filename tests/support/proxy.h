/* A TCP proxy on loopback that misbehaves on demand: what stands between two nodes in tests of cut, stalled and slow links.
 * A thread of its own; one proxy, any number of connections. Functions may be called from any thread.
 */
#ifndef DW_TESTS_PROXY_H
#define DW_TESTS_PROXY_H

#include <stdbool.h>
#include <stdint.h>

struct proxy;

enum proxy_mode {
  PROXY_PASS,
  PROXY_STALL,      /* connections stay, nothing passes, new ones are accepted and get nothing */
  PROXY_STALL_DOWN, /* only what comes from the target (towards the connecting side) is held back */
  PROXY_CUT         /* connections are closed, new ones too */
};

struct proxy *proxy_start(uint16_t target_port); /* fails the test if it can't */
void proxy_stop(struct proxy *);                 /* NULL is fine */
uint16_t proxy_port(const struct proxy *);
void proxy_mode(struct proxy *, enum proxy_mode); /* in force when it returns */
void proxy_target(struct proxy *, uint16_t port); /* for connections made from now on */
/* After so many bytes more from the target, switches to PROXY_CUT by itself. */
void proxy_cut_after(struct proxy *, uint64_t bytes);
enum proxy_mode proxy_mode_now(struct proxy *);
uint64_t proxy_down_bytes(struct proxy *); /* from the target, that passed so far */

#endif
