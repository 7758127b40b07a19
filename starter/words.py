"""Word lists for the corpus."""

NAMES = """Ada Ben Clara Dev Elif Finn Greta Hana Ivan Juno Kofi Lena Marta Noor Oskar Pia Quinn Rosa
Sami Tara Udo Vera Wim Xena Yara Zeno Mila Theo Nina Hugo Ines Jonas Karim Lucia Milan Olga""".split()
ANIMALS = """fox owl cat dog hare bear crow mouse hedgehog otter goat turtle frog badger heron seal
donkey sparrow wolf beaver""".split()
PLACES = """forest harbour village mountain island meadow valley library lighthouse garden desert
market river bridge castle farm cave station mill beach""".split()
THINGS = """lantern key map letter stone feather bell coin rope kettle compass book drum mirror boat
clock scarf basket ladder whistle""".split()
ADJECTIVES = """small old quiet brave clever curious tired gentle lonely cheerful grey young patient
hungry stubborn shy""".split()
WEATHER = ["rain", "snow", "fog", "wind", "sunshine", "a storm", "frost", "a warm breeze"]
COLOURS = "red blue green yellow black white brown orange purple grey".split()
FOODS = "bread soup apples cheese rice beans honey fish tea cake pears noodles".split()
CITIES = """Paris Oslo Lima Cairo Tokyo Rome Berlin Madrid Nairobi Dublin Quito Hanoi Vienna Lagos
Bergen Porto Zagreb Tunis Riga Bern Kyoto Turin Lyon Delhi""".split()
JOBS = "nurse sailor teacher baker farmer pilot engineer painter miner cook".split()
HOBBIES = "chess sailing reading painting running gardening cooking fishing music knitting".split()
SMALL_WORDS = """yes no maybe hello ready done green seven river cloud stone north paper silver window
table garden orange winter summer bridge candle""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November
December""".split()
