"""The login of the example: a superuser with a password for this start alone."""

import secrets

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User

NAME = "example"


def renew_password() -> str:
    """Return the new password of the superuser, who is there from now on."""
    password = secrets.token_hex(8)
    may = {"is_active": True, "is_staff": True, "is_superuser": True}
    User.objects.update_or_create(username=NAME, defaults={"password": make_password(password), **may})
    return password
