/* fail.c: CUDA errors as errno and one line. Any thread. Trap: an error that is not sticky stays in cudaGetLastError()
 * and would be blamed on the next kernel; what is reported here is taken from there. */
#include "ssm/cuda/gpu.h"

#include <errno.h>

#include "ssm/fail.h"

static int errno_of(cudaError_t e)
{
    switch (e) {
    case cudaErrorMemoryAllocation:
        return -ENOMEM;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceNotLicensed:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorInitializationError:
    case cudaErrorNoKernelImageForDevice:
        return -ENODEV;
    default:
        return -EIO;
    }
}

int gpu_fail(char *reterr, const char *model, const char *what, cudaError_t e)
{
    cudaGetLastError();
    return ssm_fail(reterr, errno_of(e), "%s: %s: %s (%s)", model, what, cudaGetErrorName(e), cudaGetErrorString(e));
}
