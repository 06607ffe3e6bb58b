/* cpu.c: CPUID for what the CPU has, XGETBV for what the system saves on a switch of threads. Linux hands out the AMX
 * tile registers only to processes that ask. Trap: the permission holds for threads made after it too, so it is asked
 * for while tables are picked, before any worker runs. */
#include "ssm/cpu.h"

#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 }; /* of arch_prctl(2) */

/* bits of XCR0 */
enum { SAVES_YMM = 0x6, SAVES_ZMM = 0xe6, SAVES_TILES = 0x60000 };

/* leaf 1: FMA, OSXSAVE, F16C; leaf 7: AVX2; AVX512 F, DQ, BW, VL; leaf 7, 1: AVX512_BF16; AMX-BF16, AMX-TILE */
enum { C1_FMA = 1 << 12, C1_OSXSAVE = 1 << 27, C1_F16C = 1 << 29, B7_AVX2 = 1 << 5, A71_BF16 = 1 << 5 };
static const uint32_t B7_AVX512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, D7_AMX = 1u << 22 | 1u << 24;

struct features {
    uint32_t c1, b7, d7, a71;
    uint64_t saved;
};

static struct features features(void)
{
    struct features f = {0};
    uint32_t a, b, c, d;
    if (__get_cpuid(1, &a, &b, &f.c1, &d) && (f.c1 & C1_OSXSAVE)) {
        __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        f.saved = (uint64_t)d << 32 | a;
    }
    if (__get_cpuid_count(7, 0, &a, &f.b7, &c, &f.d7) && a >= 1)
        __get_cpuid_count(7, 1, &f.a71, &b, &c, &d);
    return f;
}

static bool avx2(const struct features *f)
{
    return (f->saved & SAVES_YMM) == SAVES_YMM && (f->b7 & B7_AVX2) && (f->c1 & C1_FMA) && (f->c1 & C1_F16C);
}

static bool avx512(const struct features *f)
{
    return avx2(f) && (f->saved & SAVES_ZMM) == SAVES_ZMM && (f->b7 & B7_AVX512) == B7_AVX512;
}

bool ssm_cpu_avx2(void)
{
    struct features f = features();
    return avx2(&f);
}

bool ssm_cpu_avx512(void)
{
    struct features f = features();
    return avx512(&f);
}

bool ssm_cpu_avx512bf16(void)
{
    struct features f = features();
    return avx512(&f) && (f.a71 & A71_BF16);
}

bool ssm_cpu_amx(void)
{
    struct features f = features();
    if (!avx512(&f) || !(f.a71 & A71_BF16) || (f.d7 & D7_AMX) != D7_AMX || (f.saved & SAVES_TILES) != SAVES_TILES)
        return false;
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
