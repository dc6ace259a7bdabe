/* Ports for servers under test. */
#ifndef DW_TEST_PORTS_H
#define DW_TEST_PORTS_H

/* A free port below the range from which the kernel picks ports for outgoing connections: a server that is down for a
 * moment must find its port free when it comes back. */
int test_pick_port(void);

#endif
