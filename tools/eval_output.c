/* eval_output.c: progress, errors, numbers and pictures of `mambactl eval`. See eval.h. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "tools/eval.h"

void eval_progress(struct eval_options *o, size_t rows)
{
    struct timespec now;
    if (o->quiet || !isatty(STDERR_FILENO))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double now_s = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    if (rows && now_s < o->shown_s + 0.1)
        return;
    o->shown_s = now_s;
    fputs("\r\x1b[K", stderr);
    if (rows)
        fprintf(stderr, "%zu of %zu series done, %zu rows", o->series_done, o->series.n, rows);
    fflush(stderr);
}

int eval_fail(int err, const char *why)
{
    fprintf(stderr, "mambactl eval: %s\n", why);
    switch (err) {
    case -ENOENT:
        return EX_NOINPUT;
    case -EBADMSG:
        return EX_DATAERR;
    case -EINVAL:
        return EX_CONFIG;
    case -ENOMEM:
    case -ENOSYS:
    case -ENODEV:
        return EX_UNAVAILABLE;
    default:
        return EX_IOERR;
    }
}

json_t *eval_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

void eval_print(const struct eval_options *o, json_t *doc, void (*print)(const json_t *doc))
{
    if (!o->json) {
        print(doc);
    } else {
        const char *judged = o->model ? o->model : o->baseline ? o->baseline : o->scores;
        json_object_set_new(doc, "judged", json_string(judged));
        json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
        putchar('\n');
    }
    json_decref(doc);
}

void eval_print_figure(const json_t *row, const char *key, int width, int decimals)
{
    const json_t *v = json_object_get(row, key);
    if (json_is_number(v))
        printf(" %*.*f", width, decimals, json_number_value(v));
    else
        printf(" %*s", width, "-");
}

/* ---- pictures --------------------------------------------------------------------------------------------- */

/* The script stands beside the program in a build folder, below share/ where it is installed; to be freed. */
static char *plot_script(void)
{
    static const char *const places[] = {"%.*s/eval_plot.py", "%.*s/../share/mambad/eval_plot.py"};
    char self[4096], *path = NULL;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    for (int i = 0; slash && i < 2; i++) {
        if (asprintf(&path, places[i], (int)(slash - self), self) < 0)
            return NULL;
        if (access(path, X_OK) == 0)
            return path;
        free(path);
    }
    return NULL;
}

/* DIR/NAME.png, the name's slashes being dashes, but for those at its beginning. */
static char *picture_path(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s.png", folder, name + strspn(name, "/.")) < 0)
        return NULL;
    for (char *c = path + strlen(folder) + 1; *c; c++)
        if (*c == '/')
            *c = '-';
    return path;
}

/* Sends the document to the script's standard input. */
static int run_script(const char *script, const char *picture, const json_t *doc)
{
    int ends[2], status = -1;
    if (pipe(ends) != 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[0], STDIN_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(script, script, picture, (char *)NULL);
        _exit(EX_UNAVAILABLE);
    }
    close(ends[0]);
    FILE *f = pid > 0 ? fdopen(ends[1], "w") : NULL;
    if (f) {
        json_dumpf(doc, f, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fclose(f);
    } else {
        close(ends[1]);
    }
    return f && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -EIO;
}

int eval_plot(const struct eval_options *o, const char *name, json_t *doc, char *reterr)
{
    char *script = plot_script(), *picture = picture_path(o->plot, name);
    int err = script && picture && doc ? run_script(script, picture, doc) : -ENOENT;
    if (err)
        snprintf(reterr, EVAL_ERR, "%s: no picture (%s)", picture ? picture : name,
                 script ? "eval_plot.py failed" : "eval_plot.py is neither beside mambactl nor below its share folder");
    free(script);
    free(picture);
    json_decref(doc);
    return err;
}
