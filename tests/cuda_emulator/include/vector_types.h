// CUDA's vectors, as aligned as on the device: -fsanitize=alignment reports an access that is not.
#pragma once

#define EMULATOR_VECTORS(T, NAME, ALIGN_2, ALIGN_4)                                    \
  struct NAME##1 {                                                                     \
    T x;                                                                               \
  };                                                                                   \
  struct alignas(ALIGN_2) NAME##2 {                                                    \
    T x, y;                                                                            \
  };                                                                                   \
  struct NAME##3 {                                                                     \
    T x, y, z;                                                                         \
  };                                                                                   \
  struct alignas(ALIGN_4) NAME##4 {                                                    \
    T x, y, z, w;                                                                      \
  };                                                                                   \
  constexpr NAME##1 make_##NAME##1(T x) { return {x}; }                                \
  constexpr NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                        \
  constexpr NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                \
  constexpr NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
