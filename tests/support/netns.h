/* Real networks for tests: every node of a cluster in a network namespace of its own, joined by a bridge that the test
 * program itself is on, in a namespace of its own, too.
 *
 *   test program (clients)  10.77.0.254 --+
 *   node 1                  10.77.0.1   --+-- bridge, in the test program's namespace
 *   node 2                  10.77.0.2   --+
 *   ...
 *
 * No name, interface or address of it is seen outside, and nothing has to be cleaned up: a namespace ends with the last
 * process and descriptor in it, however that came about. It takes root or user namespaces, and `ip` (iproute2).
 *
 * What is cut is cut silently, as by a switch that drops frames: connections stay, nobody gets an error, and each
 * direction is cut for itself (the sender is told a hardware address that nobody has).
 */
#ifndef DW_TEST_NETNS_H
#define DW_TEST_NETNS_H

#include <stdbool.h>
#include <stddef.h>

#define NET_CLIENTS 254 /* this process */

/* Moves this process into a network of its own. Before there are threads. False: why not; it is where it was, or on a
 * loopback of its own. */
bool net_begin(char *why, size_t cap);
/* A host 1 to 253; the descriptor of its namespace. Fails the test if it can't. */
int net_add(int host);
const char *net_address(int host); /* "10.77.0.HOST" */
/* What `from` sends to `to` arrives, or not. */
void net_pass(int from, int to, bool on);
/* The cable: with carrier, or without. */
void net_plug(int host, bool on);

#endif
