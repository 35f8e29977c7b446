// Names of the cache's files. Only files with such a name are the cache's own to remove: its directory may be
// one that the user named and that holds other things.
//   segment   <64 hex digits of the model's digest>-<layout>-<16 of its keys' hash>.weights
//   partial   .<name of the segment>.<16 hex digits>.partial, while it is written
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/weights/weight_chunk.h"
#include "common/weights/weight_segment.h"

namespace moepool {

std::string SegmentPrefix(const SegmentKind& kind);  // of all segments of the kind
std::string SegmentName(const SegmentKind& kind, std::span<const WeightEntry> entries);
std::string PartialName(std::string_view segment_name, uint64_t number);
bool IsSegmentName(std::string_view name);
bool IsPartialName(std::string_view name);

}  // namespace moepool
