#include "races.hpp"

#include <algorithm>

#include "log.hpp"

namespace softgpu {
namespace {

constexpr uint32_t kSeveral = 0xff;  // warps have read a byte
constexpr uint32_t kSeveralBlocks = 0xffffffffu;
constexpr uint32_t kMaxEpoch = (1u << 24) - 1;

}  // namespace

void SharedRaces::barrier() {
    if (epoch_++ < kMaxEpoch) return;
    std::fill(writer_.begin(), writer_.end(), 0);
    std::fill(reader_.begin(), reader_.end(), 0);
    epoch_ = 1;
}

std::optional<std::string> SharedRaces::access(Access access, size_t offset, size_t num_bytes,
                                               unsigned warp) {
    const uint32_t me = epoch_ << 8 | (warp + 1);
    for (size_t byte = offset; byte < offset + num_bytes; byte++) {
        const bool written = writer_[byte] >> 8 == epoch_ && writer_[byte] != me;
        const bool read = reader_[byte] >> 8 == epoch_ && reader_[byte] != me;
        if (written || (read && access == Access::Write)) return describe(access, byte);
        if (access == Access::Write) writer_[byte] = me;
        else reader_[byte] = read ? epoch_ << 8 | kSeveral : me;
    }
    return std::nullopt;
}

std::string SharedRaces::describe(Access access, size_t offset) const {
    const bool written = writer_[offset] >> 8 == epoch_;
    const uint32_t other = (written ? writer_ : reader_)[offset] & 0xff;
    return concat("race: shared byte ", offset, " was ", written ? "written" : "read", " by ",
                  other == kSeveral ? "several warps" : concat("warp ", other - 1),
                  ", and no barrier lies before this ", access == Access::Write ? "write" : "read");
}

GlobalRaces::Page& GlobalRaces::page_of(uint64_t address) {
    const uint64_t number = address / kPageBytes;
    if (number != last_number_) {
        std::unique_ptr<Page>& page = pages_[number];
        if (!page) page = std::make_unique<Page>();
        last_number_ = number;
        last_page_ = page.get();
    }
    return *last_page_;
}

std::optional<std::string> GlobalRaces::access(Access access, uint64_t address, uint64_t num_bytes,
                                               uint32_t block) {
    const uint32_t me = block + 1;
    for (uint64_t at = address; at < address + num_bytes; at++) {
        Page& page = page_of(at);
        uint32_t& writer = page.writer[at % kPageBytes];
        uint32_t& reader = page.reader[at % kPageBytes];
        const bool written = writer != 0 && writer != me, read = reader != 0 && reader != me;
        if (written || (read && access == Access::Write)) {
            const uint32_t other = written ? writer : reader;
            return concat("race: global address ", hex(at), " was ", written ? "written" : "read", " by ",
                          other == kSeveralBlocks ? "several blocks" : concat("block number ", other - 1),
                          " of the same launch before this ", access == Access::Write ? "write" : "read");
        }
        if (access == Access::Write) writer = me;
        else reader = read ? kSeveralBlocks : me;
    }
    return std::nullopt;
}

}  // namespace softgpu
