#include <nccl.h>

#include <type_traits>

#include "engine/comm/nccl_library.h"

// Nothing but comparisons of nccl_library.h with NVIDIA's header; compiled where the build finds that.

namespace optserve::nccl {
namespace {

// Enums are passed as int, and pointers as pointers.
template <typename T>
using Plain = std::conditional_t<std::is_pointer_v<T>, void*, std::conditional_t<std::is_enum_v<T>, int, T>>;
template <typename F>
struct Shape;
template <typename R, typename... Args>
struct Shape<R (*)(Args...)> {
  // The id, a struct of its size and of nothing but bytes, is passed the same way whatever its name.
  template <typename T>
  using Arg = std::conditional_t<std::is_same_v<T, ncclUniqueId>, UniqueId, Plain<T>>;
  using type = Plain<R> (*)(Arg<Args>...);
};
template <typename Ours, typename Theirs>
constexpr bool kSame = std::is_same_v<typename Shape<Ours>::type, typename Shape<Theirs>::type>;

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) && alignof(UniqueId) == alignof(ncclUniqueId));
static_assert(kSuccess == ncclSuccess && kInProgress == ncclInProgress);
static_assert(kChar == ncclChar && kFloat == ncclFloat && kSum == ncclSum);
static_assert(kFirstWithGraphs == NCCL_VERSION(2, 9, 6));
static_assert(kSame<decltype(Library::get_unique_id), decltype(&ncclGetUniqueId)>);
static_assert(kSame<decltype(Library::comm_init_rank), decltype(&ncclCommInitRank)>);
static_assert(kSame<decltype(Library::all_reduce), decltype(&ncclAllReduce)>);
static_assert(kSame<decltype(Library::all_gather), decltype(&ncclAllGather)>);
static_assert(kSame<decltype(Library::get_async_error), decltype(&ncclCommGetAsyncError)>);
static_assert(kSame<decltype(Library::abort), decltype(&ncclCommAbort)>);

}  // namespace
}  // namespace optserve::nccl
