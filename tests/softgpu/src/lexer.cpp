#include "lexer.hpp"

#include <algorithm>
#include <cctype>

namespace softgpu {
namespace {

bool is_word_character(char c) {
    return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

class Lexer {
 public:
    explicit Lexer(const std::string& text) : text_(text) {}

    std::vector<Token> run() {
        while (at_ < text_.size()) {
            if (isspace(static_cast<unsigned char>(text_[at_]))) skip_to(at_ + 1);
            else if (text_.compare(at_, 2, "//") == 0) skip_to(text_.find('\n', at_));
            else if (text_.compare(at_, 2, "/*") == 0) skip_to(after(text_.find("*/", at_ + 2), 2));
            else take_to(end_of_token());
        }
        return std::move(tokens_);
    }

 private:
    size_t end_of_token() const {
        if (text_[at_] == '"') return after(text_.find('"', at_ + 1), 1);
        size_t end = at_;
        while (end < text_.size()) {
            if (is_word_character(text_[end])) end++;
            else if (end > at_ && text_.compare(end, 2, "::") == 0) end += 2;  // as in .shared::cta
            else break;
        }
        return std::max(end, at_ + 1);
    }

    static size_t after(size_t found, size_t length) {
        return found == std::string::npos ? found : found + length;
    }

    void skip_to(size_t end) {
        end = std::min(end, text_.size());
        line_ += static_cast<int>(std::count(&text_[at_], &text_[at_] + (end - at_), '\n'));
        at_ = end;
    }

    void take_to(size_t end) {
        tokens_.push_back({text_.substr(at_, end - at_), line_});
        skip_to(end);
    }

    const std::string& text_;
    size_t at_ = 0;
    int line_ = 1;
    std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenise(const std::string& text) { return Lexer(text).run(); }

}  // namespace softgpu
