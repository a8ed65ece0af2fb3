// The product of two matrices of integers, modulo 2^64. All numbers are little-endian.
// Input: u32 width (4 or 8, bytes of an entry), u32 n, u32 k, u32 m; then A (n x k) and B (k x m),
// row by row, signed. Output: A B, n x m entries of 8 bytes, row by row.
// Fuel depends on the four numbers alone, so that a claim of it can be checked without a run.
#include "guest.h"

enum { MOST = 4096 };

EXPORT(run) u64 run(const u8 *in, u32 size) {
  const u32 *head = (const u32 *)in;
  if (size < 16) goto bad;
  u32 width = head[0], n = head[1], k = head[2], m = head[3];
  if ((width != 4 && width != 8) || !n || !k || !m || n > MOST || k > MOST || m > MOST) goto bad;
  if (size != 16 + (u64)width * ((u64)n * k + (u64)k * m)) goto bad;
  const u8 *a = in + 16, *b = a + width * n * k;
  u64 *row = take(n * m * 8);
  out = (u8 *)row, said = n * m * 8;
  for (u32 i = 0; i < n; i++, row += m)
    for (u32 l = 0; l < k; l++)
      if (width == 4) {
        u64 x = (u64)(i64)((const int *)a)[i * k + l];
        const int *right = (const int *)b + l * m;
        for (u32 j = 0; j < m; j++) row[j] += x * (u64)(i64)right[j];
      } else {
        u64 x = ((const u64 *)a)[i * k + l];
        const u64 *right = (const u64 *)b + l * m;
        for (u32 j = 0; j < m; j++) row[j] += x * right[j];
      }
  return done();
bad:
  text("error: the input is no two matrices that fit\n");
  return done();
}
