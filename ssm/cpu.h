/* cpu.h: what this CPU and operating system let the vector tables use. Any thread. */
#ifndef SSM_CPU_H
#define SSM_CPU_H

#include <stdbool.h>

bool ssm_cpu_avx2(void);       /* with FMA and F16C */
bool ssm_cpu_avx512(void);     /* F, BW, DQ, VL */
bool ssm_cpu_avx512bf16(void); /* the same with BF16 */
bool ssm_cpu_amx(void);        /* the same with AMX-TILE and AMX-BF16; asks the kernel for the tile registers */

#endif
