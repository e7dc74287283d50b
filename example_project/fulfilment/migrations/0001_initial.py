"""The inbox and the kills."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event", models.CharField(help_text="The id of the event.", max_length=100)),
                ("order", models.CharField(max_length=100)),
                ("name", models.CharField(max_length=20)),
                (
                    "denied",
                    models.PositiveIntegerField(
                        default=0, help_text="How often it was sent back, as the lock was denied."
                    ),
                ),
                ("handled_at", models.DateTimeField(help_text="Null while it waits.", null=True)),
                (
                    "outcome",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("handled", "Handled"),
                            ("early", "Early"),
                            ("duplicate", "Duplicate"),
                            ("denied", "Denied"),
                        ],
                        max_length=20,
                    ),
                ),
                ("version", models.PositiveIntegerField(help_text="The version that the machine had then.", null=True)),
                ("worker", models.CharField(blank=True, max_length=20)),
            ],
            options={
                "verbose_name_plural": "deliveries",
            },
        ),
        migrations.CreateModel(
            name="Kill",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("order", models.CharField(max_length=100)),
                ("version", models.PositiveIntegerField()),
                (
                    "step",
                    models.CharField(
                        choices=[("locked", "after the lock"), ("committed", "after the commit")], max_length=20
                    ),
                ),
                (
                    "left",
                    models.JSONField(
                        help_text="The fences of the leases that the dead worker held, by order; null while planned.",
                        null=True,
                    ),
                ),
                ("worker", models.CharField(blank=True, max_length=20)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("order", "version", "step"), name="one_kill_each")],
            },
        ),
    ]
