/* mambactl.h: one function per subcommand, each in tools/ctl_NAME.c. argv[0] is the subcommand's name; the return value
 * is the exit code (sysexits). GNU long options; --json where output is data; errors on stderr. */
#ifndef TOOLS_MAMBACTL_H
#define TOOLS_MAMBACTL_H

int ctl_status(int argc, char **argv);
int ctl_streams(int argc, char **argv);
int ctl_snapshot(int argc, char **argv);
int ctl_restore(int argc, char **argv);
int ctl_reset(int argc, char **argv);
int ctl_reload(int argc, char **argv);
int ctl_drain(int argc, char **argv);
int ctl_tail(int argc, char **argv);
int ctl_feed(int argc, char **argv);
int ctl_keygen(int argc, char **argv);
int ctl_run(int argc, char **argv);
int ctl_inspect(int argc, char **argv);
int ctl_generate(int argc, char **argv);
int ctl_eval(int argc, char **argv);  /* dispatches to eval_forecast, eval_ltsf, eval_anomaly, eval_bytes, eval_logs */
int ctl_bench(int argc, char **argv); /* dispatches to bench_step, bench_scan, bench_generate, bench_daemon */
int eval_bytes(int argc, char **argv);
int eval_logs(int argc, char **argv);
int bench_step(int argc, char **argv);
int bench_scan(int argc, char **argv);
int bench_generate(int argc, char **argv);
int bench_daemon(int argc, char **argv);

#endif
