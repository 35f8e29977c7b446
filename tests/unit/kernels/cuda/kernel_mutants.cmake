# Copies of the kernels of rows, products and experts with one fault each, for cuda_mutants_test.
set(kernel_mutants "")
set(kernel_mutant_lines "")
function(kernel_mutant source name file text replacement)
  moepool_kernel_mutant(${name} ${file} "${text}" "${replacement}" ${source}.cu)
  string(TOUPPER ${source} kind)
  set(kernel_mutants ${kernel_mutants} $<TARGET_OBJECTS:${name}> PARENT_SCOPE)
  set(kernel_mutant_lines "${kernel_mutant_lines}${kind}_MUTANT(${name})\n" PARENT_SCOPE)
endfunction()
kernel_mutant(rows sums_before_the_tile_is_there rows.cu
  "    simt::SyncThreads();\n    if (thread < kSumLanes) {" "    if (thread < kSumLanes) {")
kernel_mutant(rows lanes_before_they_are_there rows.cu
  "lanes[thread] = sum;\n  simt::SyncThreads();" "lanes[thread] = sum;")
kernel_mutant(rows half_a_warp_finds_the_maximum rows.cuh "int m = 16; m > 0" "int m = 8; m > 0")
kernel_mutant(rows gathers_the_next_row rows.cu "args.rows[i]) * args.cols" "args.rows[i] + 1) * args.cols")
kernel_mutant(rows adds_one_part_less rows.cu "i < row.adds_end" "i + 1 < row.adds_end")
kernel_mutant(rows adds_one_leaf_less rows.cu "i < range.end" "i + 1 < range.end")
kernel_mutant(products super_block_of_seven products.cuh "sub_block == 8" "sub_block == 7")
kernel_mutant(products scale_of_the_next_token products.cuh "int column = kTileTokens * n + 2 * t + i;" "int column = kTileTokens * n + 2 * t + 1 - i;")
kernel_mutant(products quads_of_the_next_block products.cuh "codes[n] + 32 * block + 16" "codes[n] + 32 * block + 20")
kernel_mutant(products sums_before_the_tiles_are_there products.cuh
  "    simt::SyncThreads();\n    if (begin + kPlainColumns < cols)" "    if (begin + kPlainColumns < cols)")
kernel_mutant(products tiles_overwritten_while_read products.cuh
  "x[c], acc);\n    simt::SyncThreads();" "x[c], acc);")
kernel_mutant(products offset_of_seven formats.cuh "using Q4_0 = Scaled<FourBits<8>>" "using Q4_0 = Scaled<FourBits<7>>")
kernel_mutant(products halves_swapped formats.cuh "raw->scale[r][0] = static_cast<int8_t>(both & 0xff);" "raw->scale[r][0] = static_cast<int8_t>(both >> 8);")
kernel_mutant(experts hidden_kept_before_it_is_there experts.cu
  "there ? SiluMul(gate[n][i], up[n][i]) : 0.0f;\n      }\n    }\n    simt::SyncThreads();" "there ? SiluMul(gate[n][i], up[n][i]) : 0.0f;\n      }\n    }")
kernel_mutant(experts leaf_of_the_next_weight experts.cu "sum * args.pair_weight[pair]" "sum * args.pair_weight[pair ^ 1]")
kernel_mutant(experts leaves_added_before_they_are_there experts.cu
  "  simt::SyncThreads();\n  const int row = kGroup * group + thread;" "  const int row = kGroup * group + thread;")
kernel_mutant(experts part_without_its_last_leaf experts.cu "i < range.end" "i + 1 < range.end")
kernel_mutant(rows forgets_the_shared_expert rows.cuh "parts.shared != nullptr ? sum + parts.shared[at] : sum" "sum")
kernel_mutant(gate equal_logits_to_the_higher gate.cu "other > best" "other < best")
kernel_mutant(gate weights_added_before_they_are_there gate.cu
  "  simt::SyncWarp(simt::kAllLanes);\n  float all = 0;" "  float all = 0;")
kernel_mutant(gate all_but_the_last_exponential gate.cu "i < n; ++i" "i + 1 < n; ++i")
kernel_mutant(gate weighs_the_taken_one gate.cu "const bool near = e != taken &&" "const bool near =")
kernel_mutant(plan right_sides_added_to_the_first plan.cu "depth > 1 ? waiting[depth - 2] : 0" "0")
kernel_mutant(plan tiles_without_their_last_pair plan.cu "? tile + args.tile_pairs : end" "? tile + args.tile_pairs - 1 : end")
kernel_mutant(plan scanned_before_all_is_counted plan.cu
  "simt::AtomicAdd(&count[e], 1);\n  }\n  simt::SyncThreads();" "simt::AtomicAdd(&count[e], 1);\n  }")
file(CONFIGURE OUTPUT kernel_mutants.inc CONTENT "${kernel_mutant_lines}" @ONLY)
moepool_test(cuda_mutants_test SRCS kernel_mutants_test.cc ${kernel_mutants} DEPS moepool_emulated_device moepool_backend)
target_include_directories(cuda_mutants_test PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
