/* checkpoint.c: finds a tensor in one file or in several shards. Runs at open; owns its files. Trap: the index names
 * files; only plain names inside the folder are followed. */
#include "ssm/checkpoint.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ssm/fail.h"

enum { SHARDS_MAX = 1024 };

struct shard {
    const char *name; /* owned by the index */
    struct ssm_safetensors *file;
};

struct ssm_checkpoint {
    json_t *map; /* tensor → file name; NULL: one file has all */
    struct shard *shards;
    size_t n;
};

static struct shard *shard_of(const struct ssm_checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(c->shards[i].name, name))
            return &c->shards[i];
    return NULL;
}

static int open_shard(struct ssm_checkpoint *c, const char *dir, const char *name, char *reterr)
{
    char path[PATH_MAX];
    if (c->n == SHARDS_MAX)
        return ssm_fail(reterr, -EBADMSG, "%s/model.safetensors.index.json: more than %d files", dir, SHARDS_MAX);
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return ssm_fail(reterr, -ENAMETOOLONG, "%s: path too long", dir);
    c->shards[c->n].name = name;
    int err = ssm_safetensors_open(path, &c->shards[c->n].file, reterr);
    if (!err)
        c->n++;
    return err;
}

static int read_index(struct ssm_checkpoint *c, const char *path, char *reterr)
{
    json_error_t why;
    json_t *index = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!index)
        return ssm_fail(reterr, -EBADMSG, "%s:%d: %s", path, why.line, why.text);
    c->map = json_incref(json_object_get(index, "weight_map"));
    json_decref(index);
    if (!json_is_object(c->map))
        return ssm_fail(reterr, -EBADMSG, "%s: no 'weight_map'", path);
    return 0;
}

static int open_shards(struct ssm_checkpoint *c, const char *dir, const char *path, char *reterr)
{
    const char *tensor;
    json_t *value;
    int err = read_index(c, path, reterr);
    if (err)
        return err;
    json_object_foreach(c->map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || name[0] == '.')
            return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' is not in a file of this folder", path, tensor);
        struct shard *shard = shard_of(c, name);
        if (!shard && (err = open_shard(c, dir, name, reterr)))
            return err;
        if (!ssm_safetensors_find(shard_of(c, name)->file, tensor))
            return ssm_fail(reterr, -EBADMSG, "%s: tensor '%s' is not in %s", path, tensor, name);
    }
    return 0;
}

int ssm_checkpoint_open(const char *dir, struct ssm_checkpoint **ret, char *reterr)
{
    char index[PATH_MAX], single[PATH_MAX];
    struct ssm_checkpoint *c = calloc(1, sizeof *c);
    int err = -ENOMEM;
    if (!c || !(c->shards = calloc(SHARDS_MAX, sizeof *c->shards))) {
        ssm_fail(reterr, err, "%s: out of memory", dir);
        goto fail;
    }
    if (snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir) >= (int)sizeof index) {
        err = ssm_fail(reterr, -ENAMETOOLONG, "%s: path too long", dir);
        goto fail;
    }
    snprintf(single, sizeof single, "%s/model.safetensors", dir);
    if (access(single, F_OK) && !access(index, F_OK))
        err = open_shards(c, dir, index, reterr);
    else
        err = open_shard(c, dir, "model.safetensors", reterr);
    if (err)
        goto fail;
    *ret = c;
    return 0;

fail:
    ssm_checkpoint_close(&c);
    return err;
}

void ssm_checkpoint_close(struct ssm_checkpoint **checkpoint)
{
    struct ssm_checkpoint *c = *checkpoint;
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        ssm_safetensors_close(&c->shards[i].file);
    free(c->shards);
    json_decref(c->map);
    free(c);
    *checkpoint = NULL;
}

const struct ssm_st_tensor *ssm_checkpoint_find(const struct ssm_checkpoint *c, const char *name)
{
    if (!c->map)
        return ssm_safetensors_find(c->shards[0].file, name);
    const char *file = json_string_value(json_object_get(c->map, name));
    return file ? ssm_safetensors_find(shard_of(c, file)->file, name) : NULL;
}

uint64_t ssm_checkpoint_bytes(const struct ssm_checkpoint *c)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < c->n; i++)
        sum += ssm_safetensors_bytes(c->shards[i].file);
    return sum;
}
