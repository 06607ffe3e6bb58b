/* backend.c: which device an engine runs on. Any thread, at open only. The CUDA backend is a library of its own, opened
 * here, so that one build starts on machines with and without a GPU; once opened it stays, as backends are const
 * tables. */
#include "ssm/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "ssm/fail.h"

#define CUDA_LIBRARY "libmambad_cuda.so"
#define CUDA_SYMBOL "ssm_backend_cuda"

/* The loader names the file that it could not open first, which may be one that the library needs. */
static int cannot_open(const char *why, char *reterr)
{
    if (why && !strncmp(why, CUDA_LIBRARY ":", sizeof CUDA_LIBRARY) && strstr(why, "No such file"))
        why = CUDA_LIBRARY " is not installed";
    return ssm_fail(reterr, -ENODEV, "no CUDA backend: %s", why ? why : "cannot open " CUDA_LIBRARY);
}

static int open_cuda(const struct ssm_backend **ret, char *reterr)
{
    void *library = dlopen(CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return cannot_open(dlerror(), reterr);
    const struct ssm_backend *cuda = dlsym(library, CUDA_SYMBOL);
    if (!cuda || cuda->abi != SSM_BACKEND_ABI) {
        int err = ssm_fail(reterr, -ENODEV, "no CUDA backend: %s is of another version (abi %u, not %u)", CUDA_LIBRARY,
                           cuda ? cuda->abi : 0, SSM_BACKEND_ABI);
        dlclose(library);
        return err;
    }
    *ret = cuda;
    return 0;
}

int ssm_backend_pick(const char *device, const struct ssm_backend **ret, char *ret_note, char *reterr)
{
    ret_note[0] = '\0';
    if (!strcmp(device, "cpu") || !strcmp(device, "null")) {
        *ret = device[0] == 'c' ? &ssm_backend_cpu : &ssm_backend_null;
        return 0;
    }
    if (!strcmp(device, "auto")) {
        if (open_cuda(ret, ret_note))
            *ret = &ssm_backend_cpu;
        return 0;
    }
    if (!strcmp(device, "cuda") ||
        (!strncmp(device, "cuda:", 5) && device[5] && !device[5 + strspn(device + 5, "0123456789")]))
        return open_cuda(ret, reterr);
    return ssm_fail(reterr, -EINVAL, "device '%s' is none of auto, cpu, cuda, cuda:N", device);
}
