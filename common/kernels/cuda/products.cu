// Products of the trunk: several matrices with one input, bias and residual added on the way out.
#include "common/base/rounding.h"
#include "common/kernels/cuda/launches.h"
#include "common/kernels/cuda/products.cuh"

namespace moepool {
namespace {

constexpr int kWarps = 4;      // groups of a block of threads
constexpr int kManyTiles = 4;  // tiles of 8 tokens that share a reading of the weights

// Which product, and which of its groups; null past the last.
struct Place {
  const ProductArgs* product = nullptr;
  int group = 0;
};
SIMT_DEVICE Place Find(const ProductsArgs& args, int group) {
  for (int p = 0; p < args.products; ++p) {
    const int groups = (args.product[p].w.rows + kGroup - 1) / kGroup;
    if (group < groups) return {&args.product[p], group};
    group -= groups;
  }
  return {};
}

SIMT_DEVICE void Finish(const ProductArgs& product, int row, int token, float sum) {
  if (row >= product.w.rows) return;
  const int64_t at = token * product.stride + row;
  if (product.bias != nullptr) sum = sum + product.bias[row];
  product.y[at] = product.add != nullptr ? product.add[at] + sum : sum;
}

// A warp a group and kTiles * 8 tokens.
template <int kTiles>
SIMT_KERNEL QuantizedProducts(SIMT_ARGS ProductsArgs args) {
  const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const Place place = Find(args, static_cast<int>(blockIdx.x) * kWarps + warp);
  if (place.product == nullptr) return;
  const ProductArgs& product = *place.product;
  Tokens tokens;
  tokens.x = args.x;
  tokens.cols = product.w.cols;
  tokens.first = static_cast<int>(blockIdx.y) * kTiles * kTileTokens;
  const int left = args.rows - tokens.first;
  tokens.count = left < kTiles * kTileTokens ? left : kTiles * kTileTokens;
  float acc[kTiles][4];
  MultiplyGroup<kTiles>(product.w, place.group, tokens, acc);
  SIMT_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int token = kTileTokens * n + 2 * (lane % 4) + i % 2;
      if (token >= tokens.count) continue;
      Finish(product, kGroup * place.group + lane / 4 + 8 * (i / 2), tokens.first + token, acc[n][i]);
    }
  }
}

// A block of threads a group and 16 tokens.
SIMT_KERNEL PlainProducts(SIMT_ARGS ProductsArgs args) {
  SIMT_SHARED(float, tile, kPlainTileFloats);
  const Place place = Find(args, static_cast<int>(blockIdx.x));
  if (place.product == nullptr) return;
  const ProductArgs& product = *place.product;
  Tokens tokens;
  tokens.x = args.x;
  tokens.cols = product.w.cols;
  tokens.first = static_cast<int>(blockIdx.y) * kPlainTokens;
  const int left = args.rows - tokens.first;
  tokens.count = left < kPlainTokens ? left : kPlainTokens;
  const float sum = MultiplyPlainGroup(product.w, place.group, tokens, {tile, tile + kPlainColumns * kGroup});
  const int token = static_cast<int>(threadIdx.x) / kGroup;
  if (token >= tokens.count) return;
  Finish(product, kGroup * place.group + static_cast<int>(threadIdx.x) % kGroup, tokens.first + token, sum);
}

int Groups(const ProductsArgs& args) {
  int groups = 0;
  for (int p = 0; p < args.products; ++p) groups += (args.product[p].w.rows + kGroup - 1) / kGroup;
  return groups;
}

uint32_t Ratio(int64_t n, int64_t each) { return static_cast<uint32_t>(DivideUp(n, each)); }

}  // namespace

namespace SIMT_TARGET {

void LaunchQuantizedProducts(const ProductsArgs& args, void* stream) {
  if (args.rows == 0) return;
  const uint32_t grid = Ratio(Groups(args), kWarps);
  constexpr uint32_t kThreads = kWarps * simt::kWarp;
  if (args.rows <= kTileTokens) {
    simt::Start(QuantizedProducts<1>, {.grid_x = grid, .threads = kThreads}, stream, args);
    return;
  }
  const uint32_t tiles = Ratio(args.rows, kManyTiles * kTileTokens);
  simt::Start(QuantizedProducts<kManyTiles>, {.grid_x = grid, .grid_y = tiles, .threads = kThreads}, stream,
              args);
}

void LaunchPlainProducts(const ProductsArgs& args, void* stream) {
  if (args.rows == 0) return;
  simt::Start(PlainProducts,
              {.grid_x = static_cast<uint32_t>(Groups(args)),
               .grid_y = Ratio(args.rows, kPlainTokens),
               .threads = kPlainThreads},
              stream, args);
}

}  // namespace SIMT_TARGET
}  // namespace moepool
