#include "token_stream.hpp"

#include "log.hpp"
#include "program.hpp"

namespace softgpu {

void TokenStream::fail(const std::string& what) const {
    throw PtxError(
        concat("PTX line ", at_end() && !tokens_.empty() ? tokens_.back().line : line(), ": ", what));
}

const std::string& TokenStream::current() const {
    if (at_end()) fail("the text ends early");
    return tokens_[at_].text;
}

const std::string& TokenStream::peek(size_t ahead) const {
    static const std::string nothing;
    return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead].text : nothing;
}

std::string TokenStream::take() {
    std::string text = current();
    at_++;
    return text;
}

void TokenStream::expect(const std::string& text) {
    if (current() != text) fail(concat("`", text, "` expected, `", current(), "` found"));
    at_++;
}

bool TokenStream::accept(const std::string& text) {
    if (at_end() || tokens_[at_].text != text) return false;
    at_++;
    return true;
}

long TokenStream::number() {
    const bool negative = accept("-");
    const std::string text = take();
    size_t num_read = 0;
    long value = 0;
    try {
        value = std::stol(text, &num_read, 0);
    } catch (const std::exception&) {
        num_read = 0;
    }
    if (num_read == 0 || num_read != text.size()) fail(concat("a number expected, `", text, "` found"));
    return negative ? -value : value;
}

void TokenStream::skip_line() {
    for (const int here = line(); !at_end() && line() == here;) at_++;
}

void TokenStream::skip_past(const std::string& text) {
    while (current() != text) at_++;
    at_++;
}

}  // namespace softgpu
