/* How a synchronous writer sleeps, and how it is woken.
 *
 * One atomic word per request says what has happened to it, instead of a condition variable: an answered writer leaves
 * without taking the engine's mutex again, so a group of thirty is not thirty threads that queue for it.
 *
 *   NONE --wait--> ASLEEP --request_look--> LOOK --wait--> NONE     a role may be free
 *                         --requests_done-> DONE                    answered: final
 *
 * Where it sleeps (a futex) is a bell that it shares with the writers who were queued with it and will be answered with
 * it: one system call rings for all of them, and only if somebody sleeps. Woken one by one, each took the processor
 * from the one that was waking the others. To wake a single one, each listens to one bit besides.
 *
 * The signal is set first, then the bell's count rises, then it rings. A sleeper reads the count, then the signal, then
 * sleeps unless the count has moved: so nobody sleeps through. Who is woken for another one looks again.
 *
 * DONE hands the request back to its writer, on whose stack it lies: the waker does not touch it any more. The bells
 * are the engine's.
 *
 * Who waits for nothing but other writers' microseconds looks a few times before it sleeps: going to sleep and being
 * woken costs more than the whole commit. The processor is offered to others meanwhile, since the leader may need it.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/internal.h"

#define SPIN_PAUSES 100
#define SPIN_YIELDS 20

static void cpu_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

static long futex(atomic_uint *word, int op, unsigned value, const struct timespec *until, uint32_t bits) {
  return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, until, NULL, bits);
}

static void ring(atomic_uint *bell, uint32_t bits) {
  atomic_fetch_add(bell, 1);
  futex(bell, FUTEX_WAKE_BITSET, INT_MAX, NULL, bits);
}

void request_look(struct write_request *r) {
  if (atomic_exchange(&r->signal, SIGNAL_LOOK) == SIGNAL_ASLEEP) ring(r->bell, r->bell_bit);
}

void requests_done(struct request_list *done) {
  atomic_uint *bell = NULL;
  for (struct write_request *r = done->head, *next; r; r = next) {
    next = r->next;
    if (bell && r->bell != bell) {
      ring(bell, FUTEX_BITSET_MATCH_ANY);
      bell = NULL;
    }
    atomic_uint *its = r->bell;
    if (atomic_exchange(&r->signal, SIGNAL_DONE) == SIGNAL_ASLEEP) bell = its;
  }
  if (bell) ring(bell, FUTEX_BITSET_MATCH_ANY);
  request_list_init(done);
}

static unsigned spin(struct write_request *r) {
  unsigned v = atomic_load_explicit(&r->signal, memory_order_acquire);
  for (int i = 0; v == SIGNAL_NONE && i < SPIN_PAUSES + SPIN_YIELDS; i++) {
    if (i < SPIN_PAUSES)
      cpu_pause();
    else
      sched_yield();
    v = atomic_load_explicit(&r->signal, memory_order_acquire);
  }
  return v;
}

/* Until signalled or the deadline, by the monotonic clock. */
static unsigned sleep_until(struct write_request *r, uint64_t deadline_ns) {
  struct timespec ts = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
  unsigned v = SIGNAL_NONE;
  if (!atomic_compare_exchange_strong(&r->signal, &v, SIGNAL_ASLEEP)) return v;
  for (;;) {
    unsigned rung = atomic_load(r->bell); /* before the look at the signal, which is set before the bell is rung */
    if ((v = atomic_load(&r->signal)) != SIGNAL_ASLEEP) return v;
    if (futex(r->bell, FUTEX_WAIT_BITSET, rung, deadline_ns == UINT64_MAX ? NULL : &ts, r->bell_bit) == 0) continue;
    if (errno == ETIMEDOUT && atomic_compare_exchange_strong(&r->signal, &v, SIGNAL_NONE)) return SIGNAL_NONE;
  }
}

bool request_wait(struct write_request *r, bool soon, uint64_t deadline_ns) {
  unsigned v = soon ? spin(r) : atomic_load_explicit(&r->signal, memory_order_acquire);
  if (v == SIGNAL_NONE) v = sleep_until(r, deadline_ns);
  if (v == SIGNAL_DONE) return true;
  if (v == SIGNAL_LOOK) atomic_compare_exchange_strong(&r->signal, &v, SIGNAL_NONE);
  return false;
}

bool request_done(struct write_request *r) {
  return atomic_load_explicit(&r->signal, memory_order_acquire) == SIGNAL_DONE;
}
