// Arithmetic intrinsics, to the bit. Roundings are to nearest, ties to even, unless the name says otherwise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

inline unsigned __float_as_uint(float v) {
  unsigned bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
inline int __float_as_int(float v) { return static_cast<int>(__float_as_uint(v)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline long long __double_as_longlong(double v) {
  long long bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// The compiler must not contract: -ffp-contract=off. A NaN that the device makes is 0x7fffffff; here it is the CPU's.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

namespace emulator {

// Out of range saturates, a NaN is 0.
template <class Integer>
Integer saturated(double integral) {
  if (std::isnan(integral)) return 0;
  constexpr double low = static_cast<double>(std::numeric_limits<Integer>::min());
  constexpr double high = static_cast<double>(std::numeric_limits<Integer>::max());
  if (integral <= low) return std::numeric_limits<Integer>::min();
  if (integral >= high) return std::numeric_limits<Integer>::max();
  return static_cast<Integer>(integral);
}

}  // namespace emulator

inline int __float2int_rn(float v) { return emulator::saturated<int>(rint(static_cast<double>(v))); }
inline int __float2int_rz(float v) { return emulator::saturated<int>(trunc(static_cast<double>(v))); }
inline int __float2int_rd(float v) { return emulator::saturated<int>(floor(static_cast<double>(v))); }
inline int __float2int_ru(float v) { return emulator::saturated<int>(ceil(static_cast<double>(v))); }
inline unsigned __float2uint_rn(float v) { return emulator::saturated<unsigned>(rint(static_cast<double>(v))); }
inline unsigned __float2uint_rz(float v) { return emulator::saturated<unsigned>(trunc(static_cast<double>(v))); }
inline float __int2float_rn(int v) { return static_cast<float>(v); }
inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
inline float __double2float_rn(double v) { return static_cast<float>(v); }

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
inline int __mul24(int a, int b) {
  const long long x = static_cast<int>(static_cast<unsigned>(a) << 8) >> 8;
  const long long y = static_cast<int>(static_cast<unsigned>(b) << 8) >> 8;
  return static_cast<int>(x * y);
}

inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (v >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {  // bit 3 of a nibble spreads the sign of the byte
    const unsigned pick = selector >> 4 * i & 0xfu, byte = static_cast<unsigned>(bytes >> 8 * (pick & 7u) & 0xffu);
    result |= ((pick & 8u) == 0 ? byte : (byte & 0x80u) != 0 ? 0xffu : 0u) << 8 * i;
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31u));
}

namespace emulator {

template <class T>
using Arithmetic = std::enable_if_t<std::is_arithmetic_v<T>, T>;

}  // namespace emulator

// Of two zeros the device takes -0 for the smaller; the C library may take either.
template <class T>
emulator::Arithmetic<T> min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a == 0 && b == 0) return std::signbit(a) ? a : b;
    return std::fmin(a, b);
  } else {
    return b < a ? b : a;
  }
}
template <class T>
emulator::Arithmetic<T> max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a == 0 && b == 0) return std::signbit(a) ? b : a;
    return std::fmax(a, b);
  } else {
    return a < b ? b : a;
  }
}
