#include "kernels/common/half.h"
#include "tests/cuda_emulator/emulator.h"

// The matrix instructions of a warp, by the fragment layouts of the PTX manual ("Matrix Fragments for ...").

namespace optserve::emulator {
namespace {

const float* HalfTable() {
  static const std::vector<float>* table = [] {
    auto* values = new std::vector<float>(65536);
    for (uint32_t i = 0; i < 65536; ++i) (*values)[i] = ToF32(F16{static_cast<uint16_t>(i)});
    return values;
  }();
  return table->data();
}

void Unpack(uint32_t pair, float* out) {
  out[0] = HalfTable()[pair & 0xffff];
  out[1] = HalfTable()[pair >> 16];
}

void NeedWholeWarp(unsigned mask, const char* what) {
  if (mask != ~0u) Fail(std::string(what) + " executed by part of a warp");
}

}  // namespace

void BallotLanes(void** lanes, unsigned mask) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1) != 0 && static_cast<Voted*>(lanes[i])->value != 0) result |= 1u << i;
  }
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1) != 0) static_cast<Voted*>(lanes[i])->result = result;
  }
}

void MmaM16N8K16(void** lanes, unsigned mask) {
  NeedWholeWarp(mask, "mma.m16n8k16");
  float a[16][16], b[16][8], pair[2];
  for (int i = 0; i < 32; ++i) {
    const auto* x = static_cast<const MmaArgument*>(lanes[i]);
    const int group = i / 4, in_group = i % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      Unpack(x->a[r], pair);
      for (int e = 0; e < 2; ++e) a[group + (r & 1) * 8][in_group + e + (r >> 1) * 8] = pair[e];
    }
    for (int r = 0; r < 2; ++r) {
      Unpack(x->b[r], pair);
      for (int e = 0; e < 2; ++e) b[in_group + e + r * 8][group] = pair[e];
    }
  }
  float c[16][8] = {};
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int i = 0; i < 32; ++i) {
    auto* x = static_cast<MmaArgument*>(lanes[i]);
    for (int e = 0; e < 4; ++e) x->d[e] += c[i / 4 + (e >> 1) * 8][i % 4 * 2 + (e & 1)];
  }
}

// Four independent products of 8 x 4 and 4 x 8, one for each pair of quads: lanes 4 q to 4 q + 3 and those 16 above.
template <bool kRowB>
void MmaM8N8K4(void** lanes, unsigned mask) {
  NeedWholeWarp(mask, "mma.m8n8k4");
  for (int pair = 0; pair < 4; ++pair) {
    float a[8][4], b[4][8], c[8][8] = {}, values[4];
    for (int s = 0; s < 8; ++s) {
      const int upper = s / 4 * 4, in_quad = s % 4;
      const auto* x = static_cast<const MmaArgument*>(lanes[pair * 4 + in_quad + s / 4 * 16]);
      Unpack(x->a[0], values);
      Unpack(x->a[1], values + 2);
      for (int i = 0; i < 4; ++i) a[in_quad + upper][i] = values[i];
      Unpack(x->b[0], values);
      Unpack(x->b[1], values + 2);
      for (int i = 0; i < 4; ++i) (kRowB ? b[in_quad][i + upper] : b[i][in_quad + upper]) = values[i];
    }
    for (int i = 0; i < 8; ++i) {
      for (int k = 0; k < 4; ++k) {
        for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
      }
    }
    for (int s = 0; s < 8; ++s) {
      const int lane = pair * 4 + s % 4 + s / 4 * 16;
      auto* x = static_cast<MmaArgument*>(lanes[lane]);
      for (int i = 0; i < 8; ++i) x->d[i] += c[(lane & 1) + (i & 2) + s / 4 * 4][(i & 4) + (lane & 2) + (i & 1)];
    }
  }
}
template void MmaM8N8K4<true>(void**, unsigned);
template void MmaM8N8K4<false>(void**, unsigned);

void WmmaM32N8K16(void** lanes, unsigned mask) {
  NeedWholeWarp(mask, "wmma.mma");
  float b[16][8];
  for (int i = 0; i < 32; ++i) {
    const F16* quarter = static_cast<const WmmaArgument*>(lanes[i])->b;
    for (int e = 0; e < 4; ++e) b[i % 4 * 4 + e][i / 4] = HalfTable()[quarter[e].bits];
  }
  for (int i = 0; i < 32; ++i) {
    const auto* row = static_cast<const WmmaArgument*>(lanes[i]);
    float c[8] = {};
    for (int k = 0; k < 16; ++k) {
      const float a = HalfTable()[row->a[k].bits];
      for (int j = 0; j < 8; ++j) c[j] += a * b[k][j];
    }
    for (int j = 0; j < 8; ++j) row->c[j] += c[j];
  }
}

void UseMatrix(const char* what, const void* at, int stride, size_t element, Place place) {
  struct Use {
    const char* what;
    const void* at;
    int stride;
    size_t element;
  } use{what, at, stride, element};
  Collective(
      what, ~0u, &use,
      [](void** lanes, unsigned mask) {
        const Use& first = *static_cast<const Use*>(lanes[0]);
        NeedWholeWarp(mask, first.what);
        for (int i = 0; i < 32; ++i) {
          const Use& own = *static_cast<const Use*>(lanes[i]);
          if (own.at != first.at || own.stride != first.stride) {
            Fail(std::string(first.what) + ": lanes name different matrices");
          }
        }
        if (reinterpret_cast<uintptr_t>(first.at) % 32 != 0 || first.stride * first.element % 16 != 0) {
          Fail(std::string(first.what) + ": misaligned");
        }
      },
      false, place);
}

template <bool kTranspose>
void LdmatrixX4(void** lanes, unsigned mask) {
  NeedWholeWarp(mask, "ldmatrix");
  for (int j = 0; j < 4; ++j) {
    uint16_t m[8][8];
    for (int r = 0; r < 8; ++r) {
      const void* row = static_cast<const LdmatrixArgument*>(lanes[j * 8 + r])->row;
      if ((reinterpret_cast<uintptr_t>(row) & 15) != 0) Fail("ldmatrix: a row's address is not a multiple of 16");
      std::memcpy(m[r], row, 16);
    }
    for (int i = 0; i < 32; ++i) {
      const int group = i / 4, in_group = i % 4 * 2;
      const uint32_t low = kTranspose ? m[in_group][group] : m[group][in_group];
      const uint32_t high = kTranspose ? m[in_group + 1][group] : m[group][in_group + 1];
      static_cast<LdmatrixArgument*>(lanes[i])->r[j] = low | high << 16;
    }
  }
}
template void LdmatrixX4<true>(void**, unsigned);
template void LdmatrixX4<false>(void**, unsigned);

}  // namespace optserve::emulator
