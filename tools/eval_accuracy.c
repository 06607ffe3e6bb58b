/* eval_accuracy.c: see eval_accuracy.h; the rules stand in docs/evaluation.md. */
#include "tools/eval_accuracy.h"

#include <math.h>
#include <string.h>

static const double ratio_least = 0.05, ratio_most = 5; /* of a channel's loss; a missing forecast counts as the most */
static const double flat = 1e-3; /* channels whose baseline loss is below this share of their deviation are left out */

void eval_channel_score(struct eval_channel *ch, double y, double base, double sigma, const float *q)
{
    double loss = 0, base_loss = 0;
    bool missing = !q;
    for (int l = 0; l < EVAL_LEVELS; l++) {
        base_loss += eval_pinball(y, base + sigma * eval_normal[l], eval_levels[l]);
        missing = missing || !isfinite((double)q[l]);
        loss += missing ? 0 : eval_pinball(y, (double)q[l], eval_levels[l]);
    }
    ch->points++;
    ch->base_loss += base_loss;
    ch->loss += missing ? ratio_most * base_loss : loss;
    if (missing) {
        ch->missing++;
        return;
    }
    double mae = eval_seasonal_mae(&ch->seasonal);
    ch->covered += y >= (double)q[EVAL_LOWEST] && y <= (double)q[EVAL_HIGHEST];
    if (mae > 0) {
        ch->scaled_error += fabs(y - (double)q[EVAL_MEDIAN]) / mae;
        ch->scaled++;
    }
}

/* Mean distance of a channel's values from their mean. */
static double deviation(const struct eval_table *t, uint32_t channel)
{
    double sum = 0, distance = 0;
    size_t n = 0;
    for (size_t i = channel; i < t->rows * t->channels; i += t->channels)
        if (isfinite(t->x[i])) {
            sum += t->x[i];
            n++;
        }
    for (size_t i = channel; i < t->rows * t->channels; i += t->channels)
        if (isfinite(t->x[i]))
            distance += fabs(t->x[i] - sum / (double)n);
    return n ? distance / (double)n : 0;
}

void eval_accuracy_sum(struct eval_accuracy *v, const struct eval_channel *channels, const struct eval_table *t)
{
    double ratio = 0, mase = 0, loss = 0;
    size_t covered = 0, predicted = 0, missing = 0, counted = 0, scaled = 0;
    for (uint32_t c = 0; c < v->channels; c++) {
        const struct eval_channel *ch = &channels[c];
        double per_level = ch->points ? ch->base_loss / ((double)ch->points * EVAL_LEVELS) : 0;
        if (!(per_level > 0) || per_level < flat * deviation(t, c))
            continue;
        ratio += fmin(fmax(ch->loss / ch->base_loss, ratio_least), ratio_most);
        loss += ch->loss / ((double)ch->points * EVAL_LEVELS);
        counted++;
        v->points += ch->points;
        missing += ch->missing;
        covered += ch->covered;
        predicted += ch->points - ch->missing;
        if (ch->scaled) {
            mase += ch->scaled_error / (double)ch->scaled;
            scaled++;
        }
    }
    v->left_out = v->channels - (uint32_t)counted;
    v->ratio = counted ? ratio / (double)counted : NAN;
    v->loss = counted ? loss / (double)counted : NAN;
    v->mase = scaled ? mase / (double)scaled : NAN;
    v->coverage = predicted ? (double)covered / (double)predicted : NAN;
    v->missing = v->points ? (double)missing / (double)v->points : NAN;
}

/* ---- report ----------------------------------------------------------------------------------------------- */

struct mean {
    double log_ratio, mase, coverage, missing, loss;
    size_t n;
};

static void add(struct mean *m, double ratio, double mase, double coverage, double missing, double loss)
{
    if (isnan(ratio))
        return;
    m->log_ratio += log(ratio);
    m->mase += mase;
    m->coverage += isnan(coverage) ? 0 : coverage;
    m->missing += missing;
    m->loss += loss;
    m->n++;
}

static json_t *mean_json(const struct mean *m, const char *name)
{
    double n = m->n ? (double)m->n : NAN;
    return json_pack("{s:s, s:I, s:o, s:o, s:o, s:o}", "name", name, "members", (json_int_t)m->n, "relative_crps",
                     eval_number(exp(m->log_ratio / n)), "mase", eval_number(m->mase / n), "coverage",
                     eval_number(m->coverage / n), "missing", eval_number(m->missing / n));
}

static void add_to_total(struct mean *total, const struct mean *family)
{
    double n = (double)family->n;
    if (family->n)
        add(total, exp(family->log_ratio / n), family->mase / n, family->coverage / n, family->missing / n, 0);
}

json_t *eval_accuracy_report(const struct eval_accuracy *all, size_t n)
{
    json_t *series = json_array(), *families = json_array();
    struct mean total = {0};
    for (size_t i = 0; i < n; i++) {
        const struct eval_accuracy *v = &all[i];
        struct mean family = {0};
        bool first = true;
        json_array_append_new(series, json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "name",
                                                v->s->name, "family", v->s->family, "season", (json_int_t)v->season,
                                                "horizon", (json_int_t)v->horizon, "points", (json_int_t)v->points,
                                                "channels", (int)v->channels, "left_out", (int)v->left_out,
                                                "relative_crps", eval_number(v->ratio), "mase", eval_number(v->mase),
                                                "coverage", eval_number(v->coverage), "missing",
                                                eval_number(v->missing), "loss", eval_number(v->loss)));
        for (size_t k = 0; k < n; k++) {
            const struct eval_accuracy *w = &all[k];
            bool same = strcmp(w->s->family, v->s->family) == 0;
            first = first && !(same && k < i);
            if (same)
                add(&family, w->ratio, w->mase, w->coverage, w->missing, w->loss);
        }
        if (!first)
            continue;
        json_array_append_new(families, mean_json(&family, v->s->family));
        add_to_total(&total, &family);
    }
    return json_pack("{s:o, s:o, s:o}", "series", series, "families", families, "total", mean_json(&total, "total"));
}

static void print_row(const json_t *row, bool series)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    size_t n = strlen(name);
    printf("%-*s", EVAL_NAME, n > EVAL_NAME ? name + (n - EVAL_NAME) : name);
    if (series) {
        eval_print_figure(row, "season", 6, 0);
        eval_print_figure(row, "horizon", 7, 0);
        eval_print_figure(row, "points", 9, 0);
    } else {
        printf(" %24s", "");
    }
    eval_print_figure(row, "relative_crps", 8, 4);
    eval_print_figure(row, "mase", 8, 3);
    eval_print_figure(row, "coverage", 8, 3);
    eval_print_figure(row, "missing", 7, 3);
    if (series)
        printf(" %11.5g", json_number_value(json_object_get(row, "loss")));
    putchar('\n');
}

void eval_accuracy_print(const json_t *doc)
{
    size_t i;
    json_t *row;
    printf("%-*s %6s %7s %9s %8s %8s %8s %7s %11s\n", EVAL_NAME, "series", "season", "horizon", "points", "rel.CRPS",
           "MASE", "in 80 %", "missing", "pinball");
    json_array_foreach(json_object_get(doc, "series"), i, row) print_row(row, true);
    printf("\n%-*s (relative CRPS: geometric mean)\n", EVAL_NAME, "family");
    json_array_foreach(json_object_get(doc, "families"), i, row) print_row(row, false);
    print_row(json_object_get(doc, "total"), false);
}
