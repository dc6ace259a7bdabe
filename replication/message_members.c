/* Bodies about members: who is in the cluster, and where clients and nodes find whom. Beside message_codec.c because of
 * the texts: addresses end up in replies to clients, in messages of fields with blanks between, and in log lines, so
 * one with other characters than an address has is taken for none.
 */
#include <stdlib.h>
#include <string.h>

#include "replication/address.h"
#include "replication/message.h"

static int bad(const char *what) {
  return dw_fail(DW_CORRUPT, "member: %s", what);
}

static bool zero(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i]) return false;
  return true;
}

/* Terminated, nothing behind its end. */
static bool get_text(const uint8_t *p, char *out, size_t cap) {
  size_t n = strnlen((const char *)p, cap);
  if (n == cap || !zero(p + n, cap - n)) return false;
  memcpy(out, p, cap);
  return true;
}

static void only_an_address(char text[MSG_ADDRESS_BYTES]) {
  static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:-_[]*";
  struct address a;
  if (text[strspn(text, plain)] == 0 && address_parse(text, &a) == DW_OK && strtoul(a.port, NULL, 10) != 0) return;
  memset(text, 0, MSG_ADDRESS_BYTES);
}

void msg_member_encode(const struct msg_member *m, uint8_t out[MSG_MEMBER_BYTES]) {
  memset(out, 0, MSG_MEMBER_BYTES);
  put_u64(out, m->node_id);
  out[8] = m->role;
  put_u32(out + 12, m->priority);
  memcpy(out + 16, m->client, strnlen(m->client, MSG_ADDRESS_BYTES - 1));
  memcpy(out + 80, m->listen, strnlen(m->listen, MSG_ADDRESS_BYTES - 1));
  memcpy(out + 144, m->region, strnlen(m->region, MSG_REGION_BYTES - 1));
}

int msg_member_decode(const uint8_t in[MSG_MEMBER_BYTES], struct msg_member *m) {
  memset(m, 0, sizeof *m); /* members are compared as bytes */
  m->node_id = get_u64(in);
  m->role = in[8];
  m->priority = get_u32(in + 12);
  if (m->node_id == 0) return bad("node id is zero");
  if (m->role != DW_PRIMARY && m->role != DW_FOLLOWER) return bad("unknown role");
  if (!zero(in + 9, 3)) return bad("reserved bytes are not zero");
  if (!get_text(in + 16, m->client, MSG_ADDRESS_BYTES) || !get_text(in + 80, m->listen, MSG_ADDRESS_BYTES) ||
      !get_text(in + 144, m->region, MSG_REGION_BYTES))
    return bad("a text is not terminated, or has bytes behind its end");
  only_an_address(m->client);
  only_an_address(m->listen);
  for (char *c = m->region; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?'; /* a peer's attempt to forge log lines */
  return DW_OK;
}

int msg_put_members(struct buf *b, const struct msg_sender *s, const struct msg_members *m) {
  uint8_t p[8 + MSG_MEMBERS_MAX * MSG_MEMBER_BYTES] = {0};
  put_u32(p, m->count);
  for (uint32_t i = 0; i < m->count; i++) msg_member_encode(&m->member[i], p + 8 + i * MSG_MEMBER_BYTES);
  return msg_put(b, s, MSG_MEMBERS, p, 8 + m->count * MSG_MEMBER_BYTES);
}

int msg_get_members(const struct frame *f, struct msg_members *m) {
  unsigned primaries = 0;
  memset(m, 0, sizeof *m);
  uint32_t count = get_u32(f->body);
  if (get_u32(f->body + 4) != 0) return bad("reserved bytes of the list are not zero");
  if (count == 0 || count > MSG_MEMBERS_MAX || f->h.body_len != 8 + count * MSG_MEMBER_BYTES)
    return bad("the list's length does not fit their number");
  for (uint32_t i = 0; i < count; i++) {
    int rc = msg_member_decode(f->body + 8 + i * MSG_MEMBER_BYTES, &m->member[i]);
    if (rc) return rc;
    primaries += m->member[i].role == DW_PRIMARY;
    for (uint32_t k = 0; k < i; k++)
      if (m->member[k].node_id == m->member[i].node_id) return bad("a node is there twice");
  }
  if (primaries > 1) return bad("there are two primaries");
  m->count = count;
  return DW_OK;
}
