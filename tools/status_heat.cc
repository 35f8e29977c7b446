#include "tools/status_heat.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moepool {
namespace {

// Of the 256 colours: from nearly black over teal to pale yellow.
constexpr int kRamp[] = {234, 235, 23, 24, 30, 31, 37, 43, 79, 115, 157, 193, 229};
constexpr std::string_view kShades = " .:-=+*#%@";
constexpr int kLabelColumns = 4;

// Means of `each` x `each` neighbours.
struct Cells {
  int layers = 0;   // of cells
  int experts = 0;  // of cells
  int layers_each = 1;
  int experts_each = 1;
  std::vector<double> values;  // [layers, experts]
  double most = 0;
};

Cells Fold(const PoolInfo& pool, int columns, int layer_rows) {
  Cells cells;
  cells.experts_each = (pool.experts + columns - 1) / columns;
  cells.layers_each = (pool.layers + layer_rows - 1) / layer_rows;
  cells.experts = (pool.experts + cells.experts_each - 1) / cells.experts_each;
  cells.layers = (pool.layers + cells.layers_each - 1) / cells.layers_each;
  for (int row = 0; row < cells.layers; ++row) {
    for (int column = 0; column < cells.experts; ++column) {
      const int layer_end = std::min((row + 1) * cells.layers_each, pool.layers);
      const int expert_end = std::min((column + 1) * cells.experts_each, pool.experts);
      double sum = 0;
      int count = 0;
      for (int layer = row * cells.layers_each; layer < layer_end; ++layer) {
        for (int expert = column * cells.experts_each; expert < expert_end; ++expert, ++count) {
          sum += static_cast<double>(
              pool.expert_tokens_last_minute[static_cast<size_t>(layer) * static_cast<size_t>(pool.experts) +
                                             static_cast<size_t>(expert)]);
        }
      }
      cells.values.push_back(sum / count);
      cells.most = std::max(cells.most, cells.values.back());
    }
  }
  return cells;
}

size_t Step(const Cells& cells, int row, int column, size_t steps) {
  const double value = cells.values[static_cast<size_t>(row) * static_cast<size_t>(cells.experts) +
                                    static_cast<size_t>(column)];
  if (cells.most <= 0) return 0;
  return static_cast<size_t>(std::lround(value / cells.most * static_cast<double>(steps - 1)));
}

std::string HalfBlocks(const Cells& cells, int row, int width) {
  std::string text;
  for (int column = 0; column < cells.experts; ++column) {
    std::string cell = absl::StrCat("\x1b[38;5;", kRamp[Step(cells, row, column, std::size(kRamp))], "m");
    if (row + 1 < cells.layers) {
      absl::StrAppend(&cell, "\x1b[48;5;", kRamp[Step(cells, row + 1, column, std::size(kRamp))], "m");
    }
    absl::StrAppend(&text, cell);
    for (int i = 0; i < width; ++i) absl::StrAppend(&text, "▀");
  }
  return text + "\x1b[0m";
}

std::string Shades(const Cells& cells, int row, int width) {
  std::string text;
  for (int column = 0; column < cells.experts; ++column) {
    text.append(static_cast<size_t>(width), kShades[Step(cells, row, column, kShades.size())]);
  }
  return text;
}

}  // namespace

std::vector<std::string> HeatLines(const StatusScreen& screen, const PoolInfo& pool, int rows) {
  const size_t wanted =
      static_cast<size_t>(std::max(pool.layers, 0)) * static_cast<size_t>(std::max(pool.experts, 0));
  const int columns = screen.columns - kLabelColumns;
  if (wanted == 0 || pool.expert_tokens_last_minute.size() != wanted || rows < 2 || columns < 1) return {};
  const bool halves = screen.unicode && screen.colours;
  const int layers_a_line = halves ? 2 : 1;
  const Cells cells = Fold(pool, columns, (rows - 1) * layers_a_line);
  // Cells of a few experts are two or three characters wide, which is nearer to a square.
  const int width = std::clamp(columns / cells.experts, 1, halves ? 2 : 3);

  std::string head = "EXPERTS BY LAYER, tokens in the last minute";
  if (cells.experts_each > 1 || cells.layers_each > 1) {
    absl::StrAppendFormat(&head, ", means of %d x %d", cells.layers_each, cells.experts_each);
  }
  absl::StrAppendFormat(&head, ", %.0f at most", cells.most);
  head.resize(std::min(head.size(), static_cast<size_t>(screen.columns)));
  std::vector<std::string> lines = {screen.colours ? absl::StrCat("\x1b[2m", head, "\x1b[0m") : head};
  for (int row = 0; row < cells.layers; row += layers_a_line) {
    const std::string label = absl::StrFormat("%3d ", row * cells.layers_each);
    lines.push_back(label + (halves ? HalfBlocks(cells, row, width) : Shades(cells, row, width)));
  }
  return lines;
}

}  // namespace moepool
