/* dabbawal: the operator's tool. Each command has its own file: cli_status.c, cli_wal.c, cli_role.c, load_run.c. */
#include <stdio.h>
#include <string.h>

#include "replication/cmd/cli.h"
#include "replication/cmd/config.h"

static const char help[] =
    "usage: dabbawal COMMAND ...\n"
    "\n"
    "  status HOST:PORT [--watch] [--json]\n"
    "      A node and its followers, from its --resp or --http port; --watch: anew each second.\n"
    "\n"
    "  load HOST:PORT FILE|- [--format deb822|tsv|resp] [--pipeline N] [--mode 'MODE'] [--timeout TIME]\n"
    "      Writes records through the --resp port of a primary.\n"
    "        deb822  paragraphs of a Debian index: key Package/Version/Architecture, value the paragraph\n"
    "        tsv     key TAB value in each line; \\t, \\n and \\\\ stand for tab, line feed and backslash\n"
    "        resp    Redis commands as redis-cli --pipe takes them\n"
    "      Without --format: tsv for *.tsv, resp for *.resp, else deb822. --pipeline: records in flight [256].\n"
    "      --mode: as DW.MODE, e.g. 'async', 'semisync 1', 'sync 2 applied'. --timeout: without any answer [60s].\n"
    "      Malformed and refused records are reported, counted and skipped; the exit code is 1 if there were any.\n"
    "\n"
    "  checksum HOST:PORT\n"
    "      Number of records, applied LSN, and a hash over all records; equal data gives equal hashes.\n"
    "\n"
    "  wal verify DIR [--repair-from HOST:PORT,...]\n"
    "  wal dump DIR [--from LSN] [--values]\n"
    "      Checks, or shows, the log of a data directory, in use or not. dump cuts keys and values at 64 bytes\n"
    "      unless --values is given. --repair-from names nodes (their --listen ports) that are asked whether damage\n"
    "      could be repaired from there; nothing is changed.\n"
    "\n"
    "  wal repair DIR --from HOST:PORT,...\n"
    "      Puts damaged blocks of a data directory that is not in use back from nodes with the same history.\n"
    "      Nodes do this by themselves: a follower from its primary, any node from --repair-from.\n"
    "\n"
    "  promote HOST:PORT [--force] [--max-lag MS] [--timeout MS]\n"
    "      Makes a follower (its --resp port) the primary, once enough nodes have promised to follow no older one, "
    "and\n"
    "      none of them has more. --force: without either; acknowledged writes may be lost.\n"
    "\n"
    "  switchover FROM TO [--timeout MS]\n"
    "      FROM, the primary, pauses its writes, TO takes over when it has everything, the others follow it.\n"
    "\n"
    "  follow HOST:PORT PRIMARY|nobody\n"
    "      Lets a node (its --resp port) follow another one (PRIMARY: that one's --listen port). A primary becomes a\n"
    "      follower.\n"
    "\n"
    "  rejoin HOST:PORT [--primary HOST:PORT] [--timeout TIME]\n"
    "      Likewise for a node that has applied what the primary lacks: its data gives way to the primary's, once what "
    "only\n"
    "      it has is in DIR/diverged. Waits until it follows [10m]. Without --primary: whom it follows already.\n"
    "\n"
    "  diverged list DIR|HOST:PORT\n"
    "  diverged show FILE [--values]\n"
    "      What nodes kept when histories parted: the files, and what is in one.\n"
    "  diverged replay FILE --to HOST:PORT [--dry-run] [--only-missing]\n"
    "      Writes what is in such a file through the --resp port of a primary, the last operation of each key, and "
    "says what each\n"
    "      meets there. --dry-run: writes nothing. --only-missing: only keys that are not there.\n"
    "\n"
    "  pause|resume --coordinator etcd://HOST:PORT,... --cluster-name NAME\n"
    "      While paused no node takes over from another by itself. All nodes obey; docs/failover.md.\n"
    "\n"
    "  audit verify FILE\n"
    "      Checks the chain of hashes of DATA/audit.log and shows its last one.\n"
    "\n"
    "Exit codes\n"
    "  0  done (wal verify: the log is sound)\n"
    "  1  something failed, or some records were not loaded\n"
    "  2  wrong usage\n"
    "  3  another process has the data directory open (wal repair)\n"
    "  4  the log (or audit log) is corrupt, or of a newer format\n";

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int, char **);
  } commands[] = {{"status", cli_status}, {"load", cli_load},       {"checksum", cli_checksum},
                  {"wal", cli_wal},       {"promote", cli_promote}, {"switchover", cli_switchover},
                  {"follow", cli_follow}, {"rejoin", cli_rejoin},   {"diverged", cli_diverged},
                  {"pause", cli_pause},   {"resume", cli_resume},   {"audit", cli_audit}};
  if (argc < 2) {
    fputs(help, stderr);
    return EXIT_CONFIG;
  }
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0 || strcmp(argv[1], "help") == 0) {
      fputs(help, stdout);
      return EXIT_OK;
    }
  if (strcmp(argv[1], "--version") == 0) {
    printf("dabbawal %s\n", dw_version());
    return EXIT_OK;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
  fprintf(stderr, "dabbawal: unknown command '%.100s': see dabbawal --help\n", argv[1]);
  return EXIT_CONFIG;
}
