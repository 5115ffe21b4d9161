"""What the tests of data that is refused share."""

import re

import pytest


@pytest.fixture
def refused():
    """Call something that must refuse its input, in one sentence that says the words given."""

    def check(words, function, *arguments, **options):
        with pytest.raises(ValueError, match=re.escape(words)) as error:
            function(*arguments, **options)
        message = str(error.value)
        assert "\n" not in message
        assert message.endswith(".")
        return message

    return check
